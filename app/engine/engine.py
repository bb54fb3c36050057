"""Keeps a worker process alive and turns a request into an answer that can be awaited."""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal, Protocol

from app.engine.generation import Job
from app.engine.mirror import NEWCOMER, Backlog
from app.engine.process import Cause, Ending, WorkerProcess
from app.engine.quarantine import Quarantine
from app.engine.watchdog import Patience, Watchdog
from app.errors import (
    GenerationFailed,
    InvalidParameter,
    NotReady,
    OutOfMemory,
    Quarantined,
    VariationsError,
    WorkerDied,
    WorkerKilled,
)
from app.ipc.messages import (
    Cancel,
    DecodedSome,
    DeviceUse,
    Done,
    Dropped,
    Encoded,
    Failed,
    Failure,
    FromWorker,
    LoadFailed,
    Loading,
    RanOut,
    Ready,
    Start,
    Stats,
    WorkStage,
)
from app.parameters import ModelInfo, Parameters
from app.pictures import Picture
from app.scheduling.forecast import Span

GOODBYE_SECONDS = 5.0
"""A worker is given so long to end by itself once its pipe has."""

RETRY_AFTER = 5.0
"""Seconds after which to ask a service again that cannot say when it will be ready."""

LONGEST_BACKOFF = 30.0

TRY_SECONDS = 30.0
"""Between two requests that are taken to see whether the worker is still slow."""

MOST_FAILED_STARTS = 5
"""After so many in a row whoever waits is told; starting goes on, half a minute apart."""

PICTURES_AT_ONCE = 4
"""Uploads that are pixels at a time: the others are bytes before it and embeddings after."""

_LOOK_AGAIN_SECONDS = 1.0
_REMEMBERED_CANCELS = 4096

logger = logging.getLogger(__name__)

Phase = Literal["starting", "ready", "down", "stopped", "failed"]
Read = Callable[[], Awaitable[Picture]]

_ERRORS: dict[Failure, Callable[[str], VariationsError]] = {
    "failed": GenerationFailed,
    "memory": OutOfMemory,
    "parameters": lambda message: InvalidParameter(message, field="parameters"),
}


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
    def stalled(self, stage: Literal["encode", "decode"], seconds: float) -> None: ...
    def ran_out(self, stage: WorkStage) -> None: ...
    def started(self, seconds: float) -> None: ...
    def pictures(self, parameters: Parameters, flagged: int) -> None: ...
    def failed(self, parameters: Parameters) -> None: ...
    def cancelled(self, parameters: Parameters) -> None: ...
    def wasted_step(self, number: int) -> None: ...
    def worker_up(self, up: bool) -> None: ...
    def restarted(self, cause: Cause) -> None: ...
    def replayed(self, requests: int) -> None: ...
    def suspected(self, requests: int) -> None: ...
    def convicted(self) -> None: ...
    def queue(self, requests: int) -> None: ...
    def device(self, use: DeviceUse) -> None: ...
    def ready(self, model: ModelInfo, cap: int) -> None: ...
    def idle(self) -> None: ...


class Supervisor:
    """The worker as the API process sees it. All of it belongs to one event loop."""

    def __init__(self, start: Start, metrics: Metrics, patience: Patience | None = None) -> None:
        self.state = WorkerState("stopped", "not started")
        self.model: ModelInfo | None = None
        self.max_rows: int | None = None
        self._start = start
        self._metrics = metrics
        self._backlog = Backlog()
        self._watchdog = Watchdog(patience or Patience(), monotonic)
        self._quarantine = Quarantine(monotonic)
        self._pixels = asyncio.Semaphore(PICTURES_AT_ONCE)
        self._wasted: OrderedDict[str, int] = OrderedDict()
        self._worker: WorkerProcess | None = None
        self._lives: asyncio.Task[None] | None = None
        self._failed_starts = 0
        self._idle_lives = 0
        self._launched_at = 0.0
        self._lost = False
        self._tried_at = -math.inf
        self._complaint: str | None = None
        self._start_seconds: float | None = None

    @property
    def pending(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._backlog)

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: by a worker, or to wait for the next one to start."""
        if self.state.phase == "ready":
            return True
        return self._start_seconds is not None and self.state.phase in ("down", "starting") and (
            self._failed_starts == 0
        )  # fmt: skip

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
            await self._worker.close(GOODBYE_SECONDS)

    async def run(
        self, request_id: str, read: Read, parameters: Parameters, fingerprint: bytes
    ) -> Done:
        """Make the variations. Cancelling the awaiting task frees the worker at its next step.

        ``read`` gives the picture, and is called when there is room for its pixels; what it raises
        is raised here. ``fingerprint`` is the same for requests that are alike.

        Raises :class:`NotReady`, :class:`Quarantined`, :class:`InvalidParameter`,
        :class:`GenerationFailed` or :class:`WorkerDied`.
        """
        job = self._accept(request_id, parameters, fingerprint)
        try:
            await self._hand_over(job, read)
            return await job.answer
        except asyncio.CancelledError:
            self._metrics.cancelled(job.parameters)
            raise
        finally:
            self._release(job)

    # What is to come

    def foresee(self, parameters: Parameters) -> Span:
        """When a request would start and be finished if it were accepted now, in seconds."""
        span = self._backlog.foresee(parameters)[NEWCOMER]
        wait = self._restart_seconds()
        return Span(wait + span.started, wait + span.finished)

    def takes(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as quickly as ever seen."""
        return self._backlog.takes(parameters)

    def may_try(self) -> bool:
        """Whether to take a request though it seems to take too long, to see whether it does.

        While nothing is made nothing is learned: what was slow a while ago would seem so for ever.
        Now and then, and while nobody else would have to wait for it.
        """
        now = monotonic()
        if self.state.phase != "ready" or self.pending or now < self._tried_at + TRY_SECONDS:
            return False
        self._tried_at = now
        return True

    def finishes(self) -> dict[str, float]:
        """Seconds until every accepted request will be finished, by its id."""
        wait = self._restart_seconds()
        return {name: wait + span.finished for name, span in self._backlog.foresee().items()}

    def ready_in(self) -> float | None:
        """Seconds until there should be a worker; a guess where there has been none yet.

        ``None`` where there will be none.
        """
        if self.state.phase == "ready":
            return 0.0
        if self.state.phase == "failed":
            return None
        known = self._start_seconds is not None and self._failed_starts == 0
        return max(1.0, self._restart_seconds()) if known else RETRY_AFTER

    def _restart_seconds(self) -> float:
        if self.state.phase == "ready" or self._start_seconds is None:
            return 0.0
        return max(0.0, self._launched_at + self._start_seconds - monotonic())

    # A request's way

    def _accept(self, request_id: str, parameters: Parameters, fingerprint: bytes) -> Job:
        if not self.accepting:
            message = f"The worker is not ready: {self.state.reason}"
            raise NotReady(message, retry_after=self.ready_in())
        self._refuse_quarantined(fingerprint)
        answer = asyncio.get_running_loop().create_future()
        job = Job(request_id, parameters, fingerprint, answer, accepted=monotonic())
        job.inherited = self._quarantine.deaths(fingerprint)
        self._backlog.add(job)
        self._count_pending()
        self._suspect([job])
        return job

    def _refuse_quarantined(self, fingerprint: bytes) -> None:
        left = self._quarantine.left(fingerprint)
        if left > 0:
            raise _quarantined(left)

    async def _hand_over(self, job: Job, read: Read) -> None:
        """Get the picture, and see it become an embedding."""
        async with self._pixels:
            if not job.answered:
                job.source = await read()
                self._feed()
                await job.moved_on.wait()

    def _feed(self) -> None:
        """Submit to the worker what it should have now."""
        if self.state.phase != "ready" or self._worker is None:
            return
        if not self._backlog.busy:
            self._watchdog.heard()
        for job in self._backlog.due():
            self._backlog.submit(job)
            self._worker.send(job.submit())

    def _release(self, job: Job) -> None:
        if job.abandon() and job.submitted and self._worker:
            self._backlog.leave(job)
            self._cancel(self._worker, job.request_id)
        else:
            self._backlog.remove(job)
        self._count_pending()
        self._feed()

    def _cancel(self, worker: WorkerProcess, request_id: str) -> None:
        worker.send(Cancel(request_id))
        self._wasted[request_id] = 0
        if len(self._wasted) > _REMEMBERED_CANCELS:
            self._wasted.popitem(last=False)

    # The worker's lives

    async def _live(self) -> None:
        """One worker after the other, until one says that there is no use."""
        while True:
            try:
                ending = await self._live_once()
            except Exception as error:  # no file, thread or memory to be had: it need not stay so
                logger.exception("The worker could not be looked after")
                ending = Ending("launch", f"could not be started: {error}")
                if not self._lost:
                    self._lose_worker()
                await self._let_go()
            if self.state.phase == "failed":
                return
            self._metrics.restarted(ending.cause)
            delay = self._delay()
            self._launched_at = monotonic() + delay
            logger.error(
                "The worker %s; starting another in %g s; unfinished requests: %d",
                ending.words,
                delay,
                self.pending,
            )
            self._enter("down", self._why_down(ending))
            await asyncio.sleep(delay)
            self._enter("starting", f"starting again, since the worker {ending.words}")

    async def _live_once(self) -> Ending:
        """A worker from launch to end; returns how it ended."""
        worker = self._worker = WorkerProcess(self._receive)
        self._launched_at = monotonic()
        self._complaint = None
        self._lost = False
        self._watchdog.heard()
        worker.launch(self._start)
        watch = asyncio.create_task(self._watch(worker))
        try:
            await worker.ended.wait()
        finally:
            watch.cancel()
        self._lose_worker()
        ending = await worker.close(GOODBYE_SECONDS)
        if self._complaint is None:
            return ending
        return replace(ending, words=f"could not start: {self._complaint}")

    async def _let_go(self) -> None:
        """Of a worker that is half started, or cannot be ended as it should be."""
        with suppress(Exception):
            if self._worker:
                self._worker.kill()
                await self._worker.close(GOODBYE_SECONDS)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Kill the worker if it goes silent over its work."""
        while True:
            await asyncio.sleep(min(max(self._patience_left(), 0.0), _LOOK_AGAIN_SECONDS))
            if self._patience_left() <= 0:
                # Had this process itself been held up, what the worker said comes in only now.
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                if self._patience_left() <= 0:
                    worker.kill_for_silence()
                    return

    def _patience_left(self) -> float:
        if self.state.phase == "ready":
            if not self._backlog.busy:
                self._watchdog.heard()
            return self._watchdog.left(self._backlog.turn_seconds())
        return self._watchdog.left(None)

    def _lose_worker(self) -> None:
        """The worker has ended. Before its exit status is known: a large process takes its time."""
        self._lost = True
        match self.state.phase:
            case "failed":
                return
            case "ready":
                self._idle_lives += 1
                self._blame()
            case _:
                self._failed_starts += 1
        self._metrics.idle()
        self._enter("down", "the worker has ended")
        if self._failed_starts >= MOST_FAILED_STARTS:
            self._fail_all("The worker ended before the request was done, and no other starts")

    def _blame(self) -> None:
        """Find the suspects among those that were running, and convict who was alone."""
        lost = self._backlog.submitted
        running = self._backlog.worker_lost()
        self._metrics.replayed(lost - sum(job.convicted and not job.answered for job in running))
        for job in running:
            self._quarantine.died(job.fingerprint, job.all_deaths)
            if job.convicted:
                self._metrics.convicted()
                words, name = "Request %s ends workers; it is not run again", job.request_id
                logger.error(words, name, extra={"request_id": name})
                self._fail(job, WorkerKilled(_CONVICTION))
                for other in self._likes(job):
                    self._fail(other, _quarantined(self._quarantine.left(job.fingerprint)))
        self._suspect([job for job in running if not job.convicted and not job.answered])

    def _likes(self, job: Job) -> list[Job]:
        return [other for other in self._backlog if other.fingerprint == job.fingerprint]

    def _forgive(self, job: Job) -> None:
        """It has been made, so its like is not guilty of what it was running in."""
        self._quarantine.forgive(job.fingerprint)
        for other in self._likes(job):
            other.inherited = 0

    def _suspect(self, jobs: Iterable[Job]) -> None:
        suspects = [job.request_id for job in jobs if job.suspect]
        self._metrics.suspected(len(suspects))
        if suspects:
            names = ", ".join(suspects)
            logger.warning("Running in two deaths of a worker, so now alone: %s", names)

    def _delay(self) -> float:
        """Seconds before the next start: none at first, then 1, 2, 4 … 30 until work gets done."""
        idle = self._failed_starts + self._idle_lives
        return 0.0 if idle <= 1 else min(2.0 ** (idle - 2), LONGEST_BACKOFF)

    def _why_down(self, ending: Ending) -> str:
        if self._failed_starts >= MOST_FAILED_STARTS:
            return f"no worker has started in {self._failed_starts} tries: it {ending.words}"
        return f"the worker {ending.words}"

    def _fail_all(self, message: str) -> None:
        for job in self._backlog:
            self._fail(job, WorkerDied(message))

    def _enter(self, phase: Phase, reason: str, fraction: float | None = None) -> None:
        self.state = WorkerState(phase, reason, fraction)
        self._metrics.worker_up(phase == "ready")

    # What the worker says

    def _receive(self, message: FromWorker) -> None:
        if self.state.phase == "stopped":  # sent before the worker heard of it
            return
        if isinstance(message, DeviceUse):  # from a thread that goes on whatever the others do
            self._metrics.device(message)
            return
        self._watchdog.heard()
        match message:
            case Loading(stage, fraction):
                self._enter("starting", stage, fraction)
                if fraction is not None:  # a download, which the next worker will not repeat
                    self._launched_at = monotonic()
            case Ready():
                self._become_ready(message)
            case LoadFailed(reason, final):
                self._complain(reason, final=final)
            case Stats():
                self._count(message)
            case DecodedSome():
                self._backlog.decoded(message)
                self._metrics.stalled("decode", message.seconds)
            case RanOut(stage):
                self._metrics.ran_out(stage)
            case Dropped(request_id):
                self._backlog.dropped(request_id)
                self._feed()
            case Encoded() | Done() | Failed():
                self._answer(message)

    def _become_ready(self, ready: Ready) -> None:
        self.model, self.max_rows = ready.model, ready.buckets[-1]
        self._start = replace(self._start, step_seconds=ready.step_seconds)
        self._start_seconds = monotonic() - self._launched_at
        self._failed_starts = 0
        self._backlog.worker_ready(ready)
        self._metrics.ready(ready.model, ready.buckets[-1])
        self._enter("ready", "ready")
        logger.info("Ready: %s, at most %d rows in a step", ready.model.id, self.max_rows)
        self._feed()

    def _complain(self, reason: str, *, final: bool) -> None:
        """The worker cannot start, and if that is final no other could."""
        logger.error("The worker cannot be started: %s", reason)
        self._complaint = reason
        if final:
            self._enter("failed", reason)
            self._fail_all(f"The worker ended, and no other can be started: {reason}")
        if self._worker:
            self._worker.hang_up()

    def _count(self, stats: Stats) -> None:
        self._backlog.stepped(stats)
        self._metrics.step(stats)
        names = {name for name, _ in stats.members}
        for job in filter(None, map(self._backlog.get, names)):
            if not job.started:
                job.started = True
                self._metrics.started(monotonic() - stats.seconds - job.accepted)
        for request_id in names & self._wasted.keys():
            self._wasted[request_id] += 1
            self._metrics.wasted_step(self._wasted[request_id])
        if not self.pending:  # the step was of those that have gone
            self._metrics.idle()

    def _count_pending(self) -> None:
        self._metrics.queue(self.pending)
        if not self.pending:
            self._metrics.idle()

    def _answer(self, message: Encoded | Done | Failed) -> None:
        job = self._backlog.get(message.request_id)
        if job is None:
            self._answer_nobody(message)
            return
        match message:
            case Encoded():
                self._backlog.encoded(job, message)
                self._metrics.stalled("encode", message.seconds or 0.0)
            case Done():
                self._finish(job, message)
            case Failed(_, reason, kind):
                self._fail(job, _ERRORS[kind](reason))

    def _answer_nobody(self, message: Encoded | Done | Failed) -> None:
        """Its caller has gone meanwhile."""
        if isinstance(message, Encoded):
            return
        gone = self._backlog.made_for_nobody(message.request_id)
        if gone and isinstance(message, Done):
            self._forgive(gone)

    def _finish(self, job: Job, done: Done) -> None:
        self._idle_lives = 0
        self._forgive(job)
        if job.answered:
            return
        job.finish(done)
        flagged = sum(picture is None for picture in done.pictures)
        self._metrics.pictures(job.parameters, flagged)

    def _fail(self, job: Job, error: VariationsError) -> None:
        if job.answered:
            return
        job.fail(error)
        self._metrics.failed(job.parameters)


def _quarantined(seconds: float) -> Quarantined:
    return Quarantined(
        "A request with this picture and these parameters ended the worker three times; "
        f"its like is refused for another {seconds:.0f} s. Send another picture or other "
        "parameters",
        field="image",
    )


_CONVICTION = (
    "The request was running when the worker ended, three times, the last time alone in it. "
    "It is not run again, and its like is refused for ten minutes"
)
