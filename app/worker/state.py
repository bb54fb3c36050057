"""A request inside the worker, from its arrival to its last picture, and a step under way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.ipc.messages import Done, PreviewMade, Stage, StageName, StepStats
from app.parameters import Parameters
from app.pipeline import Previews, Sample, Step
from app.scheduling.batcher import Batch, Ticket


@dataclass(slots=True, eq=False)
class RequestState:
    """One request: its samples that are no pictures yet, by index, and its stages so far.

    ``waiting_since`` is when it last had nothing to do but wait, ``previewed`` when it last had
    previews, if it wishes ``previews``: readings of ``perf_counter``.
    """

    request_id: str
    parameters: Parameters
    waiting_since: float
    previews: bool = False
    samples: dict[int, Sample] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    first_step: float = 0.0
    last_step: float = 0.0
    steps: int = 0
    previewed: float = -math.inf

    def note(self, stage: StageName, began: float, ended: float) -> None:
        """Add a stretch of time in ``stage``."""
        self.stages.append(Stage(stage, began, ended))

    def encoded(self, began: float, ended: float) -> None:
        """Note that the condition was encoded."""
        self.note("queue", self.waiting_since, began)
        self.note("encode", began, ended)
        self.waiting_since = ended

    def decoded(self, began: float, unchecked: float, ended: float) -> None:
        """Note that pictures were decoded, and from ``unchecked`` on looked at for safety."""
        self.note("decode", began, unchecked)
        self.note("safety", unchecked, ended)

    def joined(self, samples: Sequence[Sample]) -> None:
        """Take the samples.

        Their tickets, here and in the mirror of the queue in the API process, have rows and calls
        by the parameters: :class:`RuntimeError` where a sample differs.
        """
        expected = self.parameters.phases
        for sample in samples:
            if sample.phases != expected:
                raise RuntimeError(
                    f"a sample has (calls, rows) {sample.phases}, where its parameters mean "
                    f"{expected}"
                )
        self.samples = dict(enumerate(samples))

    def stepped(self, began: float, ended: float) -> None:
        """Count a step that some of its samples took part in."""
        if self.steps == 0:
            self.first_step = began
            self.note("queue", self.waiting_since, began)
        self.steps += 1
        self.last_step = ended

    def done(self) -> Done:
        """The last message about it, once all its pictures were sent."""
        self.note("denoise", self.first_step, self.last_step)
        return Done(self.request_id, tuple(self.stages), self.steps)


@dataclass(frozen=True, slots=True)
class PendingPreviews:
    """Previews that the device makes, and of what: (request, index)."""

    of: tuple[tuple[str, int], ...]
    previews: Previews

    def messages(self) -> list[PreviewMade]:
        """What to send, once the device has made them."""
        pictures = self.previews.wait()
        return [PreviewMade(*name, each) for name, each in zip(self.of, pictures, strict=True)]


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A batch that was handed to the device at ``began``.

    It is one step, or several where its members had to be stepped apart. For the samples in
    ``finished`` it was the last one; of some others it may have ``previews``.
    """

    batch: Batch
    steps: tuple[Step, ...]
    finished: tuple[Ticket, ...]
    began: float
    previews: PendingPreviews | None = None

    def wait(self) -> None:
        """Wait until the device has done it."""
        for step in self.steps:
            step.wait()

    def stats(self, seconds: float, states: Sequence[RequestState], cap: int) -> StepStats:
        """What to tell of it: it took ``seconds`` and was for the requests in ``states``."""
        schedules = {
            (one.parameters.scheduler, one.parameters.num_inference_steps) for one in states
        }
        return StepStats(
            seconds=seconds,
            rows=self.batch.rows,
            bucket=self.batch.bucket,
            size=self.batch.size,
            members=tuple((ticket.request_id, ticket.index) for ticket in self.batch.tickets),
            schedules=len(schedules),
            waiting_rows=self.batch.waiting_rows,
            cap=cap,
        )
