"""Sizes a machine: a worker as the service starts it is measured, and settings follow.

Nothing here is estimated from the processor's or the card's name. What would take too long to be
run, such as full-size pictures on a CPU, is computed from the seconds of a step.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import numpy as np

from app.engine.process import WorkerProcess
from app.errors import CheckpointError, GenerationFailed, WorkerUnavailable
from app.ipc.messages import (
    Done,
    Failed,
    FromWorker,
    LoadFailed,
    Loading,
    Ready,
    Start,
    StepStats,
    Submit,
)
from app.parameters import MAX_STEPS, MAX_VARIATIONS, Condition, Parameters, unet_calls
from app.scheduling.batcher import Batcher
from app.scheduling.costs import Costs
from app.scheduling.forecast import Waiting, forecast
from app.settings import Settings

EXIT_SECONDS = 5.0

LONGEST_TRIAL = 15.0
"""Seconds that requests may be predicted to take to be run for real."""

REPEATS = 3

FEWEST_QUEUED, MOST_QUEUED = 4, 256

_SPARE = 2.0
"""Times what the longest request takes alone that its time-out should allow it at least."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Work:
    """Some requests that were done together in ``seconds``, by these steps."""

    seconds: float
    steps: tuple[StepStats, ...]


class Bench:
    """A worker process that is given work, and the time taken. Belongs to one event loop."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._worker = WorkerProcess(self._heard.put_nowait)
        self._number = 0
        self._ready: Ready | None = None

    @property
    def ready(self) -> Ready:
        """What the worker measured at its start."""
        if self._ready is None:
            raise RuntimeError("the worker has not been started")
        return self._ready

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._worker.pid

    async def start(self, start: Start, report: Report = lambda stage: None) -> None:
        """Start the worker and wait until it is ready; ``report`` is told what it does.

        Raises :class:`CheckpointError` where it cannot load, and :class:`WorkerUnavailable` where
        the process ends.
        """
        self._worker.launch(start)
        self._watching = asyncio.create_task(self._watch())
        while self._ready is None:
            match await self._next():
                case Ready() as ready:
                    self._ready = ready
                case LoadFailed(message=message):
                    raise CheckpointError(message)
                case Loading(stage=stage):
                    report(stage)

    async def run(self, requests: Sequence[Parameters]) -> Work:
        """Have requests of a grey picture done together.

        Raises :class:`GenerationFailed` where one cannot be made, and :class:`WorkerUnavailable`
        where the process ends.
        """
        side = self.ready.preprocessing.side
        grey = np.zeros((3, side, side), np.float32)
        began = perf_counter()
        waiting = set()
        for parameters in requests:
            self._number += 1
            name = str(self._number)
            waiting.add(name)
            condition = Condition.guided(grey, parameters.guidance_scale)
            self._worker.send(Submit(name, parameters, condition))
        steps = []
        while waiting:
            match await self._next():
                case StepStats() as step:
                    steps.append(step)
                case Failed(message=message):
                    raise GenerationFailed(message)
                case Done(request_id=name):
                    waiting.remove(name)
        return Work(perf_counter() - began, tuple(steps))

    async def close(self) -> None:
        """End the worker."""
        self._watching.cancel()
        await self._worker.close(EXIT_SECONDS)

    async def _next(self) -> FromWorker:
        message = await self._heard.get()
        if message is None:
            end = await self._worker.close(EXIT_SECONDS)
            raise WorkerUnavailable(f"The worker {end.reason}")
        return message

    async def _watch(self) -> None:
        await self._worker.ended.wait()
        self._heard.put_nowait(None)


@asynccontextmanager
async def bench(start: Start, report: Report = lambda stage: None) -> AsyncIterator[Bench]:
    """A :class:`Bench` whose worker is ready; it ends with the block."""
    made = Bench()
    try:
        await made.start(start, report)
        yield made
    finally:
        await made.close()


@dataclass(frozen=True, slots=True)
class Advice:
    """A value for a setting, named as its environment variable, and the reason in plain words."""

    setting: str
    value: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """The figures of a machine, in seconds and pictures a second.

    ``step_seconds`` is by rows. ``alone`` is one default request of one picture with nothing else
    to do, ``pictures_alone`` one such after the other, ``pictures_batched`` as many at once as
    :attr:`row_cap` holds. ``longest`` is the costliest request that is allowed. ``computed`` names
    those that were computed from the steps' seconds, because running them takes too long.
    """

    model: str
    device: str
    dtype: str
    size: str
    threads: int
    start_seconds: float
    step_seconds: dict[int, float]
    row_cap: int
    cap_reason: str
    encode_seconds: float
    decode_seconds: float
    default_steps: int
    alone: float
    pictures_alone: float
    pictures_batched: float
    longest: float
    computed: tuple[str, ...]
    advice: tuple[Advice, ...] = ()


async def size(settings: Settings, start: Start, report: Report) -> Sizing:
    """Measure this machine with these settings. Raises what :class:`Bench` raises."""
    began = perf_counter()
    async with bench(start, report) as made:
        start_seconds = perf_counter() - began
        ready = made.ready
        default = ready.model.defaults()
        costs = Costs()
        measured = ready.measured
        costs.measured(
            default.size, measured.step_seconds, ready.encode_seconds, ready.decode_seconds
        )
        at_once = max(1, measured.row_cap // default.rows)
        computed = []
        alone = predicted(costs, default, 1, measured.row_cap)
        if alone * REPEATS <= LONGEST_TRIAL:
            report("one request at a time")
            alone = median([(await made.run([default])).seconds for _ in range(REPEATS)])
        else:
            computed.append("alone")
        batched = predicted(costs, default, at_once, measured.row_cap)
        if batched <= LONGEST_TRIAL:
            report(f"{at_once} requests at once")
            batched = (await made.run([default] * at_once)).seconds
        else:
            computed.append("pictures_batched")
    longest = predicted(costs, _longest(ready), MAX_VARIATIONS, measured.row_cap)
    found = Sizing(
        model=ready.model.id,
        device=ready.model.device,
        dtype=ready.model.dtype,
        size=f"{default.width}x{default.height}",
        threads=measured.threads,
        start_seconds=start_seconds,
        step_seconds=measured.step_seconds,
        row_cap=measured.row_cap,
        cap_reason=measured.cap_reason,
        encode_seconds=ready.encode_seconds,
        decode_seconds=ready.decode_seconds,
        default_steps=default.num_inference_steps,
        alone=alone,
        pictures_alone=1 / alone,
        pictures_batched=at_once / batched,
        longest=longest,
        computed=(*computed, "longest"),
    )
    return _advised(found, settings)


def predicted(costs: Costs, parameters: Parameters, pictures: int, row_cap: int) -> float:
    """Seconds of so many requests of one picture, by what a step, an encode and a decode cost."""
    waiting = [Waiting(str(index), replace(parameters, n=1)) for index in range(pictures)]
    line = Batcher(range(1, row_cap + 1))
    spans = forecast(line, waiting, [], costs, at_once=pictures)
    return max(span.finished for span in spans.values())


def _longest(ready: Ready) -> Parameters:
    """The costliest request of the default size: most steps, by a solver with most calls."""
    scheduler = max(ready.model.schedulers, key=lambda each: unet_calls(each, MAX_STEPS))
    return ready.model.defaults(
        n=MAX_VARIATIONS, num_inference_steps=MAX_STEPS, guidance_scale=3.0, scheduler=scheduler
    )


def _advised(found: Sizing, settings: Settings) -> Sizing:
    """The same with the settings that follow."""
    timeout = max(settings.request_timeout, _rounded_up(_SPARE * found.longest))
    within = timeout * found.pictures_batched
    queue = int(min(MOST_QUEUED, max(FEWEST_QUEUED, within)))
    advice = (
        Advice("VARIATIONS_MAX_ROWS", found.row_cap, _reason_of_rows(found)),
        Advice(
            "VARIATIONS_REQUEST_TIMEOUT",
            round(timeout),
            f"the costliest request allowed, {MAX_VARIATIONS} pictures of {MAX_STEPS} steps, takes "
            f"{found.longest:.3g} s by itself, and twice that should be left to it",
        ),
        Advice(
            "VARIATIONS_DRAIN_TIMEOUT",
            round(timeout) + 30,
            "a request accepted just before the service is stopped may take the whole time-out",
        ),
        Advice(
            "VARIATIONS_MAX_QUEUE",
            queue,
            f"{within:.0f} default requests of one picture are done within the time-out; whoever "
            f"is behind them should be told at once (between {FEWEST_QUEUED} and {MOST_QUEUED})",
        ),
    )
    return replace(found, advice=advice)


def _reason_of_rows(found: Sizing) -> str:
    match found.cap_reason:
        case "set" | "fixed bucket":
            return "it is what your settings say"
        case "one request":
            return "one request of four pictures with guidance fits in a step"
        case "two requests":
            return "two requests of four pictures with guidance fit in a step"
        case "memory":
            return "more do not fit in the device's memory"
        case _:
            return "more rows would make steps longer and hardly more pictures a second"


def _rounded_up(seconds: float) -> float:
    """To a number that people write: tens, from 1,000 on hundreds."""
    unit = 100 if seconds >= 1000 else 10
    return math.ceil(seconds / unit) * unit


def as_text(found: Sizing) -> str:
    """The figures and the advice for people."""
    steps = ", ".join(f"{rows}: {1000 * each:.3g}" for rows, each in found.step_seconds.items())
    gain = found.pictures_batched / found.pictures_alone

    def note(name: str) -> str:
        return " (computed from the steps)" if name in found.computed else ""

    lines = [
        f"{found.model}, {found.size}, on {found.device} in {found.dtype}"
        + (f" with {found.threads} threads" if found.device == "cpu" else ""),
        "",
        f"start                  {found.start_seconds:.3g} s",
        f"a step, ms by rows     {steps}",
        f"encode, decode         {1000 * found.encode_seconds:.3g}, "
        f"{1000 * found.decode_seconds:.3g} ms a picture",
        f"a default request      {found.alone:.3g} s for one picture of {found.default_steps} "
        f"steps{note('alone')}",
        f"pictures a second      {found.pictures_alone:.3g} one by one, "
        f"{found.pictures_batched:.3g} at once ({gain:.2g} times){note('pictures_batched')}",
        "",
        "Settings that follow:",
        "",
    ]
    for each in found.advice:
        lines += [f"{each.setting}={each.value}", f"    {each.reason}"]
    return "\n".join(lines)
