"""Keeps a worker process alive and turns a request into an answer that can be awaited."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from app.engine.job import Job
from app.engine.messages import (
    Cancel,
    Done,
    Encoded,
    Failed,
    FromWorker,
    LoadFailed,
    Loading,
    Picture,
    Ready,
    Start,
    Stats,
    Timings,
)
from app.engine.process import WorkerProcess
from app.errors import GenerationFailed, NotReady, VariationsError, WorkerDied
from app.parameters import ModelInfo, Parameters

PATIENCE = 5.0
"""Seconds a worker is given to end by itself once its pipe has."""

RETRY_AFTER = 5.0
"""Seconds after which asking a service again that is not ready makes sense."""

LONGEST_BACKOFF = 30.0

logger = logging.getLogger(__name__)

Phase = Literal["starting", "ready", "down", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """How the worker is: ``reason`` for people, ``fraction`` (0–1) of what it is at, if known.

    ``starting``: loads or warms up · ``ready``: takes requests · ``down``: has ended, and another
    will be started · ``stopped``: by us · ``failed``: cannot be started, and no other will be.
    """

    phase: Phase
    reason: str
    fraction: float | None = None


class Metrics(Protocol):
    """What the engine tells whoever counts; :class:`app.metrics.Metrics` does."""

    def step(self, stats: Stats) -> None: ...
    def stages(self, timings: Timings) -> None: ...
    def pictures(self, ok: int, flagged: int) -> None: ...
    def failed(self, pictures: int = 1) -> None: ...
    def cancelled(self, pictures: int = 1) -> None: ...
    def worker_up(self, up: bool) -> None: ...
    def queue(self, requests: int) -> None: ...


class Supervisor:
    """The worker as the API process sees it. All of it belongs to one event loop."""

    def __init__(self, start: Start, metrics: Metrics) -> None:
        self.state = WorkerState("stopped", "not started")
        self.model: ModelInfo | None = None
        self.max_rows: int | None = None
        self._start = start
        self._metrics = metrics
        self._jobs: dict[str, Job] = {}
        self._worker: WorkerProcess | None = None
        self._lives: asyncio.Task[None] | None = None
        self._backoff = _backoff()

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._jobs)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker, or of the last."""
        return self._worker.pid if self._worker else None

    async def start(self) -> None:
        """Launch the worker; returns at once, :attr:`state` tells how it gets on."""
        self._enter("starting", "starting")
        self._lives = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """End the worker, by force if it must be; whoever still waits gets :class:`WorkerDied`."""
        self._enter("stopped", "stopped")
        if self._lives:
            self._lives.cancel()
            with suppress(asyncio.CancelledError):
                await self._lives
        self._fail_all("The service was stopped before the request was done")
        if self._worker:
            await self._worker.close(PATIENCE)

    async def run(self, request_id: str, picture: Picture, parameters: Parameters) -> Done:
        """Make the variations. Cancelling the awaiting task frees the worker at its next step.

        Raises :class:`NotReady`, :class:`GenerationFailed` or :class:`WorkerDied`.
        """
        job = self._accept(request_id, picture, parameters)
        del picture  # the job drops the pixels once they are encoded; so must this frame
        try:
            return await job.answer
        finally:
            self._release(job)

    def _accept(self, request_id: str, picture: Picture, parameters: Parameters) -> Job:
        if self.state.phase != "ready" or self._worker is None:
            message = f"The worker is not ready: {self.state.reason}"
            raise NotReady(message, retry_after=RETRY_AFTER)
        if request_id in self._jobs:
            raise ValueError(f"request {request_id!r} is already waiting for its answer")
        answer = asyncio.get_running_loop().create_future()
        job = self._jobs[request_id] = Job(request_id, parameters, picture, answer)
        self._metrics.queue(self.pending)
        self._worker.send(job.submit())
        return job

    def _release(self, job: Job) -> None:
        del self._jobs[job.request_id]
        self._metrics.queue(self.pending)
        if job.answer.cancelled():
            self._metrics.cancelled(job.parameters.n)
            if self._worker:
                self._worker.send(Cancel(job.request_id))

    # The worker's lives

    async def _live(self) -> None:
        """One worker after the other, until one says that there is no use."""
        while True:
            ending = await self._live_once()
            if self.state.phase == "failed":
                return
            delay = next(self._backoff)
            logger.error("The worker %s; starting another in %g s", ending, delay)
            self._enter("down", f"the worker {ending}")
            await asyncio.sleep(delay)
            self._enter("starting", f"starting again, since the worker {ending}")

    async def _live_once(self) -> str:
        """A worker from launch to end; returns how it ended."""
        worker = self._worker = WorkerProcess(self._receive)
        try:
            worker.launch(self._start)
        except OSError as error:
            return f"could not be started: {error.strerror}"
        await worker.ended.wait()
        if self.state.phase != "failed":
            self._enter("down", "the worker has ended")
        # Before the exit status is known: a large process takes its time to go.
        self._fail_all("The worker ended before the request was done")
        return await worker.close(PATIENCE)

    def _fail_all(self, message: str) -> None:
        """Answer everybody who waits. Running their jobs again instead would begin here."""
        for job in self._jobs.values():
            self._fail(job, WorkerDied(message))

    def _enter(self, phase: Phase, reason: str, fraction: float | None = None) -> None:
        self.state = WorkerState(phase, reason, fraction)
        self._metrics.worker_up(phase == "ready")

    # What the worker says

    def _receive(self, message: FromWorker) -> None:
        if self.state.phase == "stopped":  # sent before the worker heard of it
            return
        match message:
            case Loading(stage, fraction):
                self._enter("starting", stage, fraction)
            case Ready():
                self._become_ready(message)
            case LoadFailed(reason):
                self._give_up(reason)
            case Stats():
                self._metrics.step(message)
            case Encoded() | Done() | Failed():
                self._answer(message)

    def _become_ready(self, ready: Ready) -> None:
        self.model, self.max_rows = ready.model, ready.max_rows
        self._start = replace(self._start, step_seconds=ready.step_seconds)
        self._backoff = _backoff()
        self._enter("ready", "ready")
        logger.info("Ready: %s, at most %d rows in a step", ready.model.id, ready.max_rows)

    def _give_up(self, reason: str) -> None:
        logger.error("The worker cannot be started: %s", reason)
        self._enter("failed", reason)
        if self._worker:
            self._worker.hang_up()

    def _answer(self, message: Encoded | Done | Failed) -> None:
        job = self._jobs.get(message.request_id)
        if job is None:  # its caller has gone meanwhile
            return
        match message:
            case Encoded(_, embedding):
                job.source = embedding
            case Done():
                self._finish(job, message)
            case Failed(_, reason):
                self._fail(job, GenerationFailed(reason))

    def _finish(self, job: Job, done: Done) -> None:
        if job.answer.done():
            return
        job.finish(done)
        flagged = sum(picture is None for picture in done.pictures)
        self._metrics.pictures(len(done.pictures) - flagged, flagged)
        self._metrics.stages(done.timings)

    def _fail(self, job: Job, error: VariationsError) -> None:
        if job.answer.done():
            return
        job.fail(error)
        self._metrics.failed(job.parameters.n)


def _backoff() -> Iterator[float]:
    """Seconds before the next start: 1, 2, 4 … 30."""
    delay = 1.0
    while True:
        yield delay
        delay = min(2 * delay, LONGEST_BACKOFF)
