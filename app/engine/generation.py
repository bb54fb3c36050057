"""A request between its acceptance and its answer."""

import asyncio
from dataclasses import dataclass, field

from app.errors import VariationsError
from app.ipc.messages import Done, Embedding, Submit
from app.parameters import Parameters
from app.pictures import Picture

DEATHS_OF_A_SUSPECT = 2
"""A request that was running in so many deaths of a worker may be their cause."""


@dataclass(slots=True, eq=False)
class Job:
    """What it takes to run a request, once or again, and the answer somebody waits for.

    ``source`` is the picture until the worker has encoded it and the embedding from then on: a
    few kilobytes, from which :meth:`submit` makes the same pictures in any worker. It is ``None``
    until the picture is there. ``fingerprint`` is alike for requests that are alike.

    ``accepted`` is when, by ``monotonic``; ``started``, whether it has taken a step in any worker.
    ``deaths`` counts the workers that ended while it was running, ``inherited`` those before it
    that ended while its like was. ``submitted`` says whether the present worker has it, ``joined``
    whether its samples have joined the line there. ``behind`` is how many cancellations that worker
    was sent before it. ``moved_on`` is set once the pixels are not needed any more.
    """

    request_id: str
    parameters: Parameters
    fingerprint: bytes
    answer: asyncio.Future[Done]
    source: Picture | Embedding | None = None
    accepted: float = 0.0
    started: bool = False
    deaths: int = 0
    inherited: int = 0
    submitted: bool = False
    joined: bool = False
    behind: int = 0
    moved_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answered(self) -> bool:
        """Its caller has an answer, or has gone."""
        return self.answer.done()

    @property
    def made(self) -> bool:
        """The worker has no more to do for it; one whose caller has gone may still be worked on."""
        return self.answer.done() and not self.answer.cancelled()

    @property
    def all_deaths(self) -> int:
        """Its own and its likes'."""
        return self.deaths + self.inherited

    @property
    def suspect(self) -> bool:
        """It may be what ends workers: it must run alone."""
        return self.all_deaths >= DEATHS_OF_A_SUSPECT

    @property
    def convicted(self) -> bool:
        """It ended a worker that it had to itself."""
        return self.all_deaths > DEATHS_OF_A_SUSPECT

    def submit(self) -> Submit:
        """The message that makes a worker run this; there must be a source."""
        if self.source is None:
            raise ValueError(f"request {self.request_id} has no picture yet")
        return Submit(self.request_id, self.parameters, self.source)

    def embed(self, embedding: Embedding) -> None:
        """Keep the embedding in place of the pixels; its samples have joined the line."""
        self.source = embedding
        self.joined = True
        self.moved_on.set()

    def finish(self, done: Done) -> None:
        """Answer; a caller that went away in the same moment is no error."""
        if not self.answer.done():
            self.answer.set_result(done)
        self.moved_on.set()

    def fail(self, error: VariationsError) -> None:
        """Answer with an error; a caller that went away in the same moment is no error."""
        if not self.answer.done():
            self.answer.set_exception(error)
        self.moved_on.set()

    def abandon(self) -> bool:
        """Nobody waits any more. Whether that leaves the worker with work to drop."""
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # seen, even where its caller left in the same moment
            return False
        self.answer.cancel()
        return True
