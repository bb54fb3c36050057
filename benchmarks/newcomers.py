"""What a first request for a solver costs who is running: ``python -m benchmarks.newcomers``.

One picture is being denoised when another request comes, of a solver whose table this worker has
never built. The interval from the end of one step to that of the next, until the newcomer takes
part, is compared with the median before it came. A second request of the same kind, whose table is
there, tells how much of that is the newcomer's encode.
"""

import asyncio
import os
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from time import perf_counter
from typing import Annotated

import numpy as np
import typer

from app.engine.process import WorkerProcess
from app.ipc.messages import Done, Failed, FromWorker, LoadFailed, Ready, Start, StepStats, Submit
from app.parameters import Condition, ModelConfig, Scheduler
from benchmarks.report import PublishAnyway, Table, recording, write

SOLVERS = (Scheduler.LMS, Scheduler.KDPM2)
STEPS_BEFORE = 20
RUNNING_STEPS = 100
NEWCOMER_STEPS = 25
TARGET_MILLISECONDS = 20.0

LONGEST_SECONDS = 300.0
"""Of one worker's part; one that has ended says no more."""

Heard = asyncio.Queue[tuple[float, FromWorker]]
"""What a worker says, with the moment."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds from step to step: the median before the newcomer, the most until it joins."""

    solver: str
    first: bool
    usual_ms: float
    longest_ms: float

    @property
    def delay_ms(self) -> float:
        """By how much a step was late."""
        return self.longest_ms - self.usual_ms


@asynccontextmanager
async def started(model: str) -> AsyncIterator[tuple[WorkerProcess, Ready, Heard]]:
    """A worker that is ready, and what it says."""
    heard: Heard = asyncio.Queue()
    worker = WorkerProcess(lambda message: heard.put_nowait((perf_counter(), message)))
    worker.launch(Start(ModelConfig(model, device="cpu"), None, False, log_level="warning"))
    try:
        while not isinstance(message := (await heard.get())[1], Ready):
            if isinstance(message, LoadFailed):
                raise RuntimeError(message.message)
        yield worker, message, heard
    finally:
        await worker.close(5.0)


async def delay(
    worker: WorkerProcess, ready: Ready, heard: Heard, solver: Scheduler, *, first: bool
) -> Delay:
    """Have one request run and another come."""
    running, newcomer = f"running {solver} {first}", f"newcomer {solver} {first}"
    side = ready.preprocessing.side
    condition = Condition.guided(np.zeros((3, side, side), np.float32), 3.0)

    def submit(name: str, scheduler: Scheduler, steps: int) -> None:
        parameters = ready.model.defaults(
            n=1, guidance_scale=3.0, num_inference_steps=steps, scheduler=scheduler
        )
        worker.send(Submit(name, parameters, condition))

    submit(running, Scheduler.DDIM, RUNNING_STEPS)
    ends: list[float] = []
    before = joined = 0
    waiting = {running, newcomer}
    while waiting:
        match await heard.get():
            case moment, StepStats() as step:
                if not joined:
                    ends.append(moment)
                if len(ends) == STEPS_BEFORE and not before:
                    before = len(ends)
                    submit(newcomer, solver, NEWCOMER_STEPS)
                if any(name == newcomer for name, _ in step.members):
                    joined = joined or len(ends)
            case _, Done(request_id=name):
                waiting.remove(name)
            case _, Failed(message=words):
                raise RuntimeError(words)
    gaps = [1000 * (after - each) for each, after in pairwise(ends)]
    usual = statistics.median(gaps[: before - 1])
    return Delay(solver.value, first, usual, max(gaps[before - 1 : joined - 1]))


async def measure(model: str, rounds: int) -> list[Delay]:
    """All solvers in so many new workers."""
    found = []
    for _ in range(rounds):
        async with asyncio.timeout(LONGEST_SECONDS), started(model) as (worker, ready, heard):
            for solver in SOLVERS:
                for first in (True, False):
                    found.append(await delay(worker, ready, heard, solver, first=first))
                    print(found[-1], flush=True)
    return found


def table(found: Sequence[Delay]) -> Table:
    """A row for each solver, its first request and its second."""
    lines: list[Mapping[str, object]] = []
    for solver in SOLVERS:
        for first in (True, False):
            of = [one for one in found if (one.solver, one.first) == (solver.value, first)]
            lines.append(
                {
                    "solver": solver.value,
                    "request": "first" if first else "second",
                    "a step before, ms": statistics.median(one.usual_ms for one in of),
                    "latest step, median ms late": statistics.median(one.delay_ms for one in of),
                    "latest step, most ms late": max(one.delay_ms for one in of),
                    "aim": f"≤ {TARGET_MILLISECONDS:g}",
                }
            )
    return lines


def main(
    model: Annotated[str, typer.Option(help="`demo` or a checkpoint.")] = "demo",
    rounds: Annotated[int, typer.Option(min=1, help="New workers.")] = 5,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and write the figures."""
    os.environ.pop("OMP_NUM_THREADS", None)
    with recording() as run:
        found = asyncio.run(measure(model, rounds))
    figures = [asdict(one) for one in found]
    write("newcomers", run, figures, table(found), publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
