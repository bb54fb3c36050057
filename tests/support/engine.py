"""A real engine with a real worker process, and numbers that a test can wait for."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.engine.engine import Engine
from app.engine.generation import Generation, Result
from app.engine.process import Cause
from app.engine.watchdog import Timeouts
from app.ipc.messages import DeviceUse, Measured, Start, StepStats
from app.parameters import EncoderInput, ModelConfig, ModelInfo, Parameters
from tests.support.requests import SHORT_REQUEST, condition_for

LONG = 180.0
"""Seconds after which a test gives up on a worker."""


@dataclass
class Diary:
    """Metrics that are remembered, and wake the test that waits for the next entry."""

    steps: list[StepStats] = field(default_factory=list)
    started_after: list[float] = field(default_factory=list)
    models: list[ModelInfo] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    queued: list[int] = field(default_factory=list)
    ups: list[bool] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    wasted: list[int] = field(default_factory=list)
    rows: int = 0
    _entry: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, stats: StepStats) -> None:
        self.steps.append(stats)
        self.rows = stats.rows
        self._entry.set()

    def started(self, seconds: float) -> None:
        self.started_after.append(seconds)

    def pictures(self, parameters: Parameters, flagged: int) -> None:
        self._count("ok", parameters.n - flagged)
        self._count("flagged", flagged)

    def near_duplicates(self, pictures: int) -> None:
        self._count("near_duplicates", pictures)

    def failed(self, parameters: Parameters) -> None:
        self._count("failed", parameters.n)

    def cancelled(self, parameters: Parameters) -> None:
        self._count("cancelled", parameters.n)

    def device(self, use: DeviceUse) -> None:
        raise AssertionError(f"a CPU reports none, but: {use}")

    def ready(self, model: ModelInfo, measured: Measured) -> None:
        self.models.append(model)

    def stalled(self, stage: str, seconds: float) -> None:
        self._count(stage, 1)

    def ran_out(self, stage: str) -> None:
        raise AssertionError(f"nothing here takes memory, but: {stage}")

    def unet_runs(self, kind: str) -> None:
        raise AssertionError(f"nothing here is compiled, but: {kind}")

    def idle(self) -> None:
        self.rows = 0

    def wasted_step(self, number: int) -> None:
        self.wasted.append(number)
        self._entry.set()

    def restarted(self, cause: Cause) -> None:
        self.causes.append(cause)
        self._entry.set()

    def replayed(self, requests: int) -> None:
        self._count("replayed", requests)

    def exhausted(self) -> None:
        self._count("exhausted", 1)

    def worker_up(self, up: bool) -> None:
        self.ups.append(up)
        self._entry.set()

    def queue(self, requests: int) -> None:
        self.queued.append(requests)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Return once it has happened, looking again at every entry."""
        async with asyncio.timeout(LONG):
            while not happened():
                self._entry.clear()
                await self._entry.wait()

    def _count(self, outcome: str, number: int) -> None:
        self.counted[outcome] = self.counted.get(outcome, 0) + number


def start_message(model: str | Path) -> Start:
    """Load this checkpoint on the CPU, for at most 24 rows a step."""
    config = ModelConfig(model=str(model), device="cpu", dtype="float32")
    return Start(config, max_rows=24, fixed_bucket=False)


@asynccontextmanager
async def running_engine(model: str | Path) -> AsyncIterator[tuple[Engine, Diary]]:
    """An engine whose worker has been launched."""
    diary = Diary()
    engine = Engine(start_message(model), diary, Timeouts(start=LONG, step=5.0))
    await engine.start()
    try:
        yield engine, diary
    finally:
        await engine.stop()


def submit(
    engine: Engine,
    name: str,
    parameters: Parameters = SHORT_REQUEST,
    picture: EncoderInput | None = None,
) -> Generation:
    """Submit a request with a picture of noise, or this one."""
    return engine.submit(name, parameters, condition_for(parameters, picture))


async def make(
    engine: Engine,
    name: str,
    parameters: Parameters = SHORT_REQUEST,
    picture: EncoderInput | None = None,
) -> Result:
    """Submit a request and wait for its pictures; a cancelled task cancels it."""
    generation = submit(engine, name, parameters, picture)
    try:
        return await generation.result()
    finally:
        generation.cancel()


def assert_same(one: Result, other: Result) -> None:
    """Equal but for rounding."""
    for mine, theirs in zip(one.pictures, other.pictures, strict=True):
        assert mine is not None
        assert theirs is not None
        assert np.abs(mine.astype(int) - theirs).max() <= 1


def signal_worker(engine: Engine, number: signal.Signals) -> int:
    """Send its worker a signal; gives its process id."""
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, number)
    return engine.worker_pid


async def kill_while_running(engine: Engine, diary: Diary, *names: str) -> None:
    """Kill the worker once all of ``names`` took part in its steps, and wait until that is known.

    A worker that has just been killed may still have said something: the steps of the next one
    count from its being up.
    """
    exits = len(diary.causes)
    await diary.until(lambda: diary.ups[-1])
    seen = len(diary.steps)

    def running() -> bool:
        members = {name for stats in diary.steps[seen:] for name, _ in stats.members}
        return members.issuperset(names)

    await diary.until(running)
    signal_worker(engine, signal.SIGKILL)
    await diary.until(lambda: len(diary.causes) > exits)


def process_is_gone(pid: int) -> bool:
    """Ended, though perhaps not yet reaped by the process that inherited it."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    status = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return not status or status.startswith("Z")


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not ours to wait for."""
    deadline = time.monotonic() + LONG
    while not process_is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)
