"""The life of the worker: it is started, watched, ended and replaced."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal, Protocol

from app.engine.process import Cause, WorkerExit, WorkerProcess
from app.engine.watchdog import Timeouts, Watchdog
from app.ipc.messages import DeviceUse, FromWorker, LoadFailed, Loading, Ready, Start, ToWorker

EXIT_SECONDS = 5.0
"""Time for a worker to end by itself once its pipe has."""

RETRY_AFTER = 5.0
"""Seconds after which to ask a service again that cannot tell when it will be ready."""

LONGEST_BACKOFF = 30.0

MOST_FAILED_STARTS = 5
"""After so many in a row every waiting caller is told; starting goes on, half a minute apart."""

_LOOK_AGAIN_SECONDS = 1.0

logger = logging.getLogger(__name__)

Phase = Literal["starting", "ready", "down", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The state of the worker: ``reason`` for people, ``fraction`` (0–1) of ``reason``, if known.

    ``starting``: loads or warms up · ``ready``: takes requests · ``down``: has ended, and another
    will be started · ``stopped``: by us · ``failed``: cannot be started, and no other will be.
    """

    phase: Phase
    reason: str
    fraction: float | None = None


class Host(Protocol):
    """The part of the engine that a lifecycle tells what happens."""

    def receive(self, message: FromWorker) -> None:
        """A worker that is ready has said this, :class:`Ready` first."""

    def worker_lost(self) -> None:
        """A worker that was ready has ended."""

    def fail_all(self, message: str) -> None:
        """There will be no worker for the requests that wait."""

    def turn_seconds(self) -> float | None:
        """Seconds that the worker's present turn should take; ``None`` if it has nothing to do."""


class Metrics(Protocol):
    """The numbers that a lifecycle reports."""

    def worker_up(self, up: bool) -> None: ...
    def restarted(self, cause: Cause) -> None: ...


class Lifecycle:
    """One worker process after the other, until one says that there is no use in another.

    Belongs to one event loop.
    """

    def __init__(self, start: Start, timeouts: Timeouts, host: Host, metrics: Metrics) -> None:
        self.state = WorkerState("stopped", "not started")
        self._start = start
        self._host = host
        self._metrics = metrics
        self._watchdog = Watchdog(timeouts, monotonic)
        self._worker: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._failed_starts = 0
        self._idle_lives = 0
        """Workers in a row that ended before a request was done."""
        self._launched_at = 0.0
        self._start_seconds: float | None = None
        self._complaint: str | None = None

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker, or of the last."""
        return self._worker.pid if self._worker else None

    @property
    def accepting(self) -> bool:
        """Requests are taken: by a worker, or to wait for the next one to start."""
        if self.state.phase == "ready":
            return True
        restarting = self.state.phase in ("down", "starting") and self._failed_starts == 0
        return restarting and self._start_seconds is not None

    def start(self) -> None:
        """Launch the first worker; returns at once, :attr:`state` tells how it gets on."""
        self._enter("starting", "starting")
        self._task = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Return when no further worker will be started."""
        if self._task:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """End the worker, by force if it must be, and start no other."""
        self._enter("stopped", "stopped")
        if self._task:
            self._task.cancel()
            await self.wait()
        if self._worker:
            await self._worker.close(EXIT_SECONDS)

    def send(self, message: ToWorker) -> None:
        """Send to the worker; dropped where there is none."""
        if self._worker:
            self._worker.send(message)

    def began(self) -> None:
        """The worker, which had nothing to do, is given something now."""
        self._watchdog.progress()

    def worked(self) -> None:
        """The worker has answered a request: the next one need not wait to be started."""
        self._idle_lives = 0

    def restart_seconds(self) -> float:
        """Seconds until there should be a worker; 0 where there is one, or has been none yet."""
        if self.state.phase == "ready" or self._start_seconds is None:
            return 0.0
        return max(0.0, self._launched_at + self._start_seconds - monotonic())

    def ready_in(self) -> float | None:
        """Seconds until there should be a worker; a guess where there has been none yet.

        ``None`` where there will be none.
        """
        if self.state.phase == "ready":
            return 0.0
        if self.state.phase == "failed":
            return None
        known = self._start_seconds is not None and self._failed_starts == 0
        return max(1.0, self.restart_seconds()) if known else RETRY_AFTER

    # One worker after the other

    async def _run(self) -> None:
        while True:
            worker = self._worker = WorkerProcess(self._receive)
            try:
                exited = await self._run_one(worker)
            except Exception as error:  # no file, thread or memory to be had: it need not stay so
                logger.exception("The worker could not be looked after")
                exited = WorkerExit("launch", f"could not be started: {error}")
                await self._give_up(worker)
            if self.state.phase == "failed":
                return
            await self._back_off(exited)

    async def _run_one(self, worker: WorkerProcess) -> WorkerExit:
        """Launch a worker, see it to its end, and tell how it ended."""
        self._launched_at = monotonic()
        self._complaint = None
        self._watchdog.progress()
        worker.launch(self._start)
        watch = asyncio.create_task(self._watch(worker))
        try:
            await worker.ended.wait()
        finally:
            watch.cancel()
        self._lost()
        exited = await worker.close(EXIT_SECONDS)
        if self._complaint is None:
            return exited
        return replace(exited, reason=f"could not start: {self._complaint}")

    async def _give_up(self, worker: WorkerProcess) -> None:
        """End a worker that is half started, or that cannot be ended in the usual way."""
        if self.state.phase != "down":
            self._lost()
        with suppress(Exception):
            worker.kill()
            await worker.close(EXIT_SECONDS)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill the worker if it makes no progress."""
        while True:
            await asyncio.sleep(min(max(self._seconds_left(), 0.0), _LOOK_AGAIN_SECONDS))
            if self._seconds_left() <= 0:
                # Had this process itself been held up, what the worker said comes in only now.
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                if self._seconds_left() <= 0:
                    worker.kill_after_timeout()
                    return

    def _seconds_left(self) -> float:
        turn = self._host.turn_seconds()
        if self.state.phase != "ready":
            return self._watchdog.left(None)
        if turn is None:
            self._watchdog.progress()
        return self._watchdog.left(turn or 0.0)

    def _lost(self) -> None:
        """The worker has ended. Before its exit status is known: a large process takes its time."""
        phase = self.state.phase
        if phase == "failed":
            return
        self._enter("down", "the worker has ended")
        if phase == "ready":
            self._idle_lives += 1
            self._host.worker_lost()
        else:
            self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            self._host.fail_all("The worker ended before the request was done; no other starts")

    async def _back_off(self, exited: WorkerExit) -> None:
        """Wait before the next start: at first not at all, then 1, 2, 4 … 30 seconds."""
        self._metrics.restarted(exited.cause)
        idle = self._failed_starts + self._idle_lives
        delay = 0.0 if idle <= 1 else min(2.0 ** (idle - 2), LONGEST_BACKOFF)
        self._launched_at = monotonic() + delay
        logger.error("The worker %s; starting another in %g s", exited.reason, delay)
        self._enter("down", self._why_down(exited))
        await asyncio.sleep(delay)
        self._enter("starting", f"starting again, since the worker {exited.reason}")

    def _why_down(self, exited: WorkerExit) -> str:
        if self._failed_starts >= MOST_FAILED_STARTS:
            return f"no worker has started in {self._failed_starts} tries: it {exited.reason}"
        return f"the worker {exited.reason}"

    def _enter(self, phase: Phase, reason: str, fraction: float | None = None) -> None:
        self.state = WorkerState(phase, reason, fraction)
        self._metrics.worker_up(phase == "ready")

    # Messages from the worker

    def _receive(self, message: FromWorker) -> None:
        if self.state.phase == "stopped":  # sent before the worker heard of it
            return
        if not isinstance(message, DeviceUse):  # from a thread that goes on whatever the others do
            self._watchdog.progress()
        match message:
            case Loading(stage, fraction):
                self._enter("starting", stage, fraction)
                if fraction is not None:  # a download, which the next worker will not repeat
                    self._launched_at = monotonic()
            case LoadFailed(reason, final):
                self._complain(reason, final=final)
            case Ready():
                self._become_ready(message)
            case _:
                self._host.receive(message)

    def _become_ready(self, ready: Ready) -> None:
        self._start = replace(self._start, earlier=ready.measured)
        self._start_seconds = monotonic() - self._launched_at
        self._failed_starts = 0
        self._enter("ready", "ready")
        logger.info("Ready: %s, at most %d rows in a step", ready.model.id, ready.measured.row_cap)
        self._host.receive(ready)

    def _complain(self, reason: str, *, final: bool) -> None:
        """The worker cannot start, and if that is final no other could."""
        logger.error("The worker cannot be started: %s", reason)
        self._complaint = reason
        if final:
            self._enter("failed", reason)
            self._host.fail_all(f"The worker ended, and no other can be started: {reason}")
        if self._worker:
            self._worker.hang_up()
