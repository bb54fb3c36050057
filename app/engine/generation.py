"""A request in the engine: the handle that every way of meeting the service renders."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Protocol

from app.errors import VariationsError
from app.ipc.messages import Stage
from app.parameters import Condition, Embedding, NearDuplicate, Parameters
from app.pictures import Picture


class Status(StrEnum):
    """The state of a generation; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Result:
    """A request's pictures in the order of their seeds; ``None`` stands for a flagged one.

    ``stages`` tells where the time went in the worker, ``steps`` how many UNet calls it took part
    in. ``near_duplicates`` has the indices of the pictures that are near-copies of training
    pictures, where that is looked for.
    """

    pictures: tuple[Picture | None, ...]
    stages: tuple[Stage, ...]
    steps: int
    near_duplicates: Mapping[int, NearDuplicate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queued:
    """So many requests are before it, and its first step is expected in ``start_in`` seconds."""

    position: int
    start_in: float


@dataclass(frozen=True, slots=True)
class StepDone:
    """UNet calls that each picture, by its index, has behind it, ``of`` so many."""

    done: tuple[int, ...]
    of: int


@dataclass(frozen=True, slots=True)
class PictureReady:
    """Picture ``index`` is there; ``None`` where it was flagged."""

    index: int
    picture: Picture | None
    near_duplicate: NearDuplicate | None = None


@dataclass(frozen=True, slots=True)
class PreviewReady:
    """What picture ``index`` seems to become, small; nothing has checked it."""

    index: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Restarted:
    """The worker ended; the request waits for the next one and is run again from its seeds."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Every picture is there."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be served."""

    error: VariationsError


Event = Queued | StepDone | PreviewReady | PictureReady | Restarted | Finished | Failed


class Owner(Protocol):
    """The engine, as a generation tells it what its reader wants."""

    def cancelled(self, generation: "Generation") -> None:
        """Nobody waits for it any more."""

    def watched(self, generation: "Generation") -> None:
        """Somebody has begun to read its events."""

    def finishes_in(self, generation: "Generation") -> float:
        """Seconds until it should be finished."""


class Generation:
    """One submitted request, from its acceptance to its answer. Belongs to one event loop.

    Whoever submitted it uses :attr:`status`, :meth:`events`, :meth:`result` and :meth:`cancel`;
    the engine tells it what happens by the other methods. After its end nothing changes it.
    """

    def __init__(
        self,
        request_id: str,
        parameters: Parameters,
        condition: Condition,
        owner: "Owner",
        due: float = 0.0,
        within: float = math.inf,
        *,
        previews: bool = False,
    ) -> None:
        self.request_id = request_id
        self.parameters = parameters
        self.condition = condition
        self.due = due
        """Its place in the line, in row-steps."""
        self.previews = previews
        """It is to have previews."""
        self.accepted = monotonic()
        """Moment of its acceptance, by ``monotonic``."""
        self.deadline = self.accepted + within
        """Moment until which its caller waits."""
        self.status = Status.QUEUED
        self.attempts = 0
        """Workers that ended with it in their steps."""
        self.started = False
        """It has been in a step, of this worker or of one before it."""
        self.embeddings: tuple[Embedding, ...] = ()
        """Of its condition's distinct pictures, as the rows first name them, once they are
        encoded."""
        self.watchers = 0
        """Iterators over its events that are open."""
        self.wasted_steps = 0
        """Steps that it took part in after it was cancelled."""
        self._owner = owner
        self._answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._events: list[Event | None] = []
        """All so far; ``None`` stands for a preview that later news have replaced."""
        self._last_previews: dict[int, int] = {}
        """The places of the last ones among the events, by picture."""
        self._new_event = asyncio.Event()
        self._steps = [0] * parameters.n
        self._pictures: dict[int, Picture | None] = {}
        self.near_duplicates: dict[int, NearDuplicate] = {}
        """Those so far that are near-copies of training pictures, by index."""

    @property
    def flagged(self) -> int:
        """Pictures so far that the safety checker has stopped."""
        return sum(picture is None for picture in self._pictures.values())

    @property
    def ended(self) -> bool:
        """It is done, failed or cancelled."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)

    @property
    def finishes_in(self) -> float:
        """Seconds until all its pictures should be there, as predicted now; 0 after its end."""
        return 0.0 if self.ended else self._owner.finishes_in(self)

    async def result(self) -> Result:
        """The pictures, once all are there.

        Raises its error where it fails, and :class:`asyncio.CancelledError` where it is cancelled.
        That the awaiting task is cancelled does not cancel it: :meth:`cancel` does.
        """
        return await asyncio.shield(self._answer)

    async def events(self) -> AsyncGenerator[Event, None]:
        """All that happens to it, from the beginning, until it has ended.

        Of its previews there is only the last of each picture that is not there yet.
        """
        told = 0
        self.watchers += 1
        self._owner.watched(self)
        try:
            while True:
                while told < len(self._events):
                    event = self._events[told]
                    told += 1
                    if event:
                        yield event
                if self.ended and told == len(self._events):
                    return
                if told == len(self._events):
                    self._new_event.clear()
                    await self._new_event.wait()
        finally:
            self.watchers -= 1

    def cancel(self) -> None:
        """Nobody waits for it any more: it leaves the batch before the next step."""
        if not self.ended:
            self.status = Status.CANCELLED
            self._answer.cancel()
            self._new_event.set()
            self._owner.cancelled(self)

    # What the engine tells it

    def queue(self, position: int, start_in: float) -> None:
        """It waits behind so many others; repeated positions are no news."""
        last = self._events[-1] if self._events else None
        if not self.ended and not (isinstance(last, Queued) and last.position == position):
            self._tell(Queued(position, start_in))

    def encoded(self, embeddings: tuple[Embedding, ...]) -> None:
        """The pictures of its condition have become these."""
        self.embeddings = embeddings

    def step(self, indices: list[int]) -> None:
        """These of its pictures took part in a step."""
        if self.ended:
            return
        self.status = Status.RUNNING
        self.started = True
        for index in indices:
            self._steps[index] += 1
        self._tell(StepDone(tuple(self._steps), self.parameters.calls))

    def preview(self, index: int, picture: Picture) -> None:
        """A picture that is not there yet seems to become this."""
        if not self.ended and index not in self._pictures:
            self._forget_preview(index)
            self._last_previews[index] = len(self._events)
            self._tell(PreviewReady(index, picture))

    def keep(
        self, index: int, picture: Picture | None, near_duplicate: NearDuplicate | None = None
    ) -> None:
        """A picture is there; run again, it comes again and is no news."""
        if not self.ended and index not in self._pictures:
            self._forget_preview(index)
            self._pictures[index] = picture
            if near_duplicate:
                self.near_duplicates[index] = near_duplicate
            self._tell(PictureReady(index, picture, near_duplicate))

    def restart(self) -> None:
        """The worker that had it has ended."""
        if self.ended:
            return
        self.status = Status.QUEUED
        self._steps = [0] * self.parameters.n
        self._tell(Restarted())

    def finish(self, stages: tuple[Stage, ...], steps: int) -> None:
        """Every picture has been kept."""
        if self.ended:
            return
        pictures = tuple(self._pictures[index] for index in range(self.parameters.n))
        result = Result(pictures, stages, steps, self.near_duplicates)
        self.status = Status.DONE
        self._answer.set_result(result)
        self._tell(Finished(result))

    def fail(self, error: VariationsError) -> None:
        """It cannot be served."""
        if self.ended:
            return
        self.status = Status.FAILED
        self._answer.set_exception(error)
        self._answer.exception()  # seen, even where nobody awaits the result
        self._tell(Failed(error))

    def _forget_preview(self, index: int) -> None:
        if (place := self._last_previews.pop(index, None)) is not None:
            self._events[place] = None

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._new_event.set()
