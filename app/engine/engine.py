"""The engine: takes requests, has a worker make their pictures, and predicts when they are done."""

import logging
import math
from collections.abc import Callable
from time import monotonic

from app.engine import attempts
from app.engine.generation import Generation, Status
from app.engine.lifecycle import Lifecycle, WorkerState
from app.engine.metrics import Metrics
from app.engine.mirror import Mirror
from app.engine.predictions import Predictions
from app.engine.watchdog import Timeouts
from app.errors import (
    AttemptsExhausted,
    GenerationFailed,
    InvalidParameter,
    NotReady,
    OutOfMemory,
    VariationsError,
    WorkerUnavailable,
)
from app.ipc.messages import (
    Cancel,
    DecodeStats,
    DeviceUse,
    Done,
    Dropped,
    Encoded,
    Failed,
    Failure,
    FromWorker,
    PictureDone,
    PreviewMade,
    RanOut,
    Ready,
    Start,
    StepStats,
    Submit,
    UNetRuns,
)
from app.parameters import Condition, ModelInfo, Parameters
from app.pictures.fit import Preprocessing
from app.scheduling.forecast import Span

TRY_SECONDS = 30.0
"""Between two requests that are taken only to see whether the worker is still slow."""

logger = logging.getLogger(__name__)

_ERRORS: dict[Failure, Callable[[str], VariationsError]] = {
    "failed": GenerationFailed,
    "memory": OutOfMemory,
    "steps": lambda message: InvalidParameter(message, field="num_inference_steps"),
}


class Engine:
    """The model as the API process sees it. All of it belongs to one event loop."""

    def __init__(self, start: Start, metrics: Metrics, timeouts: Timeouts | None = None) -> None:
        self.model: ModelInfo | None = None
        self.preprocessing: Preprocessing | None = None
        self.max_rows: int | None = None
        self._metrics = metrics
        self._mirror = Mirror()
        self._predictions = Predictions(self._mirror)
        self._lifecycle = Lifecycle(start, timeouts or Timeouts(), self, metrics)
        self._tried_at = -math.inf

    @property
    def state(self) -> WorkerState:
        """The state of the worker."""
        return self._lifecycle.state

    @property
    def accepting(self) -> bool:
        """Requests are taken: by a worker, or to wait for the next one to start."""
        return self._lifecycle.accepting

    @property
    def pending(self) -> int:
        """Requests submitted and not ended."""
        return len(self._mirror)

    @property
    def _running(self) -> bool:
        """There is a worker, and time brings what is predicted nearer."""
        return self.state.phase == "ready"

    @property
    def worker_pid(self) -> int | None:
        """Process id of the present worker, or of the last."""
        return self._lifecycle.worker_pid

    async def start(self) -> None:
        """Launch the worker; returns at once, :attr:`state` tells how it gets on."""
        self._lifecycle.start()

    async def wait(self) -> None:
        """Return when no further worker will be started."""
        await self._lifecycle.wait()

    async def stop(self) -> None:
        """End the worker; whoever still waits gets :class:`WorkerUnavailable`."""
        await self._lifecycle.stop()
        self.fail_all("The service was stopped before the request was done")

    def submit(
        self,
        request_id: str,
        parameters: Parameters,
        condition: Condition,
        within: float = math.inf,
        *,
        previews: bool = False,
    ) -> Generation:
        """Put a request in the queue. Raises :class:`NotReady` where requests are not taken.

        Its caller waits for so many seconds: nobody who comes later makes it later than that.
        The generation fails with :class:`InvalidParameter`, :class:`GenerationFailed` or one of
        its kinds, or :class:`WorkerUnavailable`.
        """
        if not self.accepting:
            message = f"The worker is not ready: {self.state.reason}"
            raise NotReady(message, retry_after=self.ready_in())
        due = self._due(parameters)
        generation = Generation(
            request_id, parameters, condition, self, due, within, previews=previews
        )
        self._mirror.add(generation)
        position = sum(one.due <= due for one in self._mirror) - 1
        generation.queue(position, self._span(generation).started)
        self._count_pending()
        self._feed()
        return generation

    # Predictions

    def predict(self, parameters: Parameters) -> Span:
        """Seconds until a request would start and be finished if it were accepted now."""
        due = self._due(parameters)
        return self._later(self._predictions.further(parameters, due, running=self._running))

    def _later(self, span: Span) -> Span:
        wait = self._lifecycle.restart_seconds()
        return Span(wait + span.started, wait + span.finished)

    def fastest(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as fast as ever seen."""
        return self._mirror.fastest(parameters)

    def may_try(self) -> bool:
        """Take a request though it seems to take too long, to see whether it does.

        While nothing is made nothing is learned: what was slow a while ago would seem so for ever.
        Now and then, and while nobody else would have to wait for it.
        """
        now = monotonic()
        ready = self.state.phase == "ready"
        if not ready or self.pending or now < self._tried_at + TRY_SECONDS:
            return False
        self._tried_at = now
        return True

    def finishes(self) -> dict[str, float]:
        """Seconds until every submitted request will be finished, by its id."""
        wait = self._lifecycle.restart_seconds()
        finishes = self._predictions.finishes(running=self._running)
        return {name: wait + seconds for name, seconds in finishes.items()}

    def ready_in(self) -> float | None:
        """Seconds until there should be a worker, or ``None`` where there will be none."""
        return self._lifecycle.ready_in()

    def _due(self, parameters: Parameters) -> float:
        later = self._lifecycle.restart_seconds()
        return self._predictions.due(parameters, later, running=self._running)

    # The owner of the generations

    def cancelled(self, generation: Generation) -> None:
        """Nobody waits for it any more."""
        self._metrics.cancelled(generation.parameters)
        if self._mirror.cancel(generation):
            self._lifecycle.send(Cancel(generation.request_id))
        self._count_pending()
        self._feed()

    def watched(self, generation: Generation) -> None:
        """Somebody has begun to read its events."""
        self._tell_positions()

    def finishes_in(self, generation: Generation) -> float:
        """Seconds until a submitted request should be finished."""
        return self._span(generation).finished

    # The host of the lifecycle

    def turn_seconds(self) -> float | None:
        """Seconds that the worker's present turn should take; ``None`` if it has nothing to do."""
        return self._mirror.turn_seconds() if self._mirror.busy else None

    def worker_lost(self) -> None:
        """The worker has ended: who was in its steps has used up an attempt; all wait again."""
        lost = [one for one in self._mirror if self._mirror.submitted(one.request_id)]
        running = self._mirror.worker_lost()
        for generation in attempts.use_up(running):
            name = generation.request_id
            logger.error("Request %s has no attempt left", name, extra={"request_id": name})
            self._metrics.exhausted()
            self._fail(generation, AttemptsExhausted(attempts.EXHAUSTED))
        for generation in lost:
            generation.restart()
        if last := [one.request_id for one in running if attempts.is_last(one)]:
            logger.warning("Twice in the steps of a worker that ended, so now alone: %s", last)
        self._metrics.replayed(sum(not one.ended for one in lost))
        self._metrics.idle()

    def fail_all(self, message: str) -> None:
        """There will be no worker for the requests that wait."""
        for generation in self._mirror:
            self._fail(generation, WorkerUnavailable(message))

    def receive(self, message: FromWorker) -> None:
        """A worker that is ready has said this."""
        match message:
            case Ready():
                self._worker_ready(message)
            case Encoded():
                self._encoded(message)
            case StepStats():
                self._stepped(message)
            case DecodeStats():
                self._mirror.decoded(message)
                self._metrics.stalled("decode", self._mirror.stalled(message.seconds))
            case PictureDone() | PreviewMade():
                self._showed(message)
            case Done():
                self._done(message)
            case Failed(request_id, reason, kind):
                self._failed(request_id, _ERRORS[kind](reason))
            case Dropped(request_id):
                self._mirror.dropped(request_id)
                self._feed()
            case RanOut(stage):
                self._metrics.ran_out(stage)
            case UNetRuns(kind):
                self._metrics.unet_runs(kind)
            case DeviceUse():
                self._metrics.device(message)

    def _encoded(self, message: Encoded) -> None:
        self._mirror.encoded(message)
        seconds = message.seconds + message.latents_seconds
        self._metrics.stalled("encode", self._mirror.stalled(seconds))
        if generation := self._mirror.submitted(message.request_id):
            generation.encoded(message.embeddings)

    def _showed(self, message: PictureDone | PreviewMade) -> None:
        if generation := self._mirror.get(message.request_id):
            match message:
                case PictureDone(_, index, picture, near_duplicate):
                    generation.keep(index, picture, near_duplicate)
                case PreviewMade(_, index, preview):
                    generation.preview(index, preview)

    def _worker_ready(self, ready: Ready) -> None:
        self.model, self.preprocessing = ready.model, ready.preprocessing
        self.max_rows = ready.measured.row_cap
        self._mirror.worker_ready(ready)
        self._metrics.ready(ready.model, ready.measured)
        self._feed()

    def _stepped(self, stats: StepStats) -> None:
        self._mirror.stepped(stats)
        self._metrics.step(stats)
        members: dict[str, list[int]] = {}
        for name, index in stats.members:
            members.setdefault(name, []).append(index)
        for name, indices in members.items():
            if generation := self._mirror.submitted(name):
                self._took_part(generation, indices, stats.seconds)
        self._tell_positions()
        if not self.pending:  # the step was of those that have gone
            self._metrics.idle()

    def _took_part(self, generation: Generation, indices: list[int], seconds: float) -> None:
        if generation.status is Status.CANCELLED:
            generation.wasted_steps += 1
            self._metrics.wasted_step(generation.wasted_steps)
            return
        if not generation.started:
            self._metrics.started(monotonic() - seconds - generation.accepted)
        generation.step(indices)

    def _done(self, done: Done) -> None:
        self._lifecycle.worked()
        generation = self._mirror.submitted(done.request_id)
        if generation is None:
            return
        generation.finish(done.stages, done.steps)
        if generation.status is Status.DONE:
            self._metrics.pictures(generation.parameters, generation.flagged)
            self._metrics.near_duplicates(len(generation.near_duplicates))
        self._ended(generation)

    def _failed(self, request_id: str, error: VariationsError) -> None:
        if generation := self._mirror.submitted(request_id):
            self._fail(generation, error)
            self._feed()

    def _fail(self, generation: Generation, error: VariationsError) -> None:
        if not generation.ended:
            generation.fail(error)
            self._metrics.failed(generation.parameters)
        self._ended(generation)

    def _ended(self, generation: Generation) -> None:
        self._mirror.remove(generation)
        self._count_pending()
        self._feed()

    def _feed(self) -> None:
        """Submit to the worker what it should have now."""
        if self.state.phase != "ready":
            return
        if not self._mirror.busy:
            self._lifecycle.began()
        for one in self._mirror.due():
            self._mirror.submit(one)
            submit = Submit(one.request_id, one.parameters, one.condition, one.due, one.previews)
            self._lifecycle.send(submit)

    def _tell_positions(self) -> None:
        """Tell the generations that wait, and whose events somebody reads, where they are."""
        for generation, position in self._mirror.positions():
            if generation.watchers:
                generation.queue(position, self._span(generation).started)

    def _span(self, generation: Generation) -> Span:
        return self._later(self._predictions.of(generation.request_id, running=self._running))

    def _count_pending(self) -> None:
        self._metrics.queue(self.pending)
        if not self.pending:
            self._metrics.idle()
