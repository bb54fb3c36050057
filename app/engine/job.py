"""A request between its acceptance and its answer."""

import asyncio
from dataclasses import dataclass

from app.engine.messages import Done, Embedding, Picture, Submit
from app.errors import VariationsError
from app.parameters import Parameters


@dataclass(slots=True, eq=False)
class Job:
    """What it takes to run a request, once or again, and the answer somebody waits for.

    ``source`` is the picture until the worker has encoded it and the embedding from then on: a
    few kilobytes, from which :meth:`submit` makes the same pictures in any worker.
    """

    request_id: str
    parameters: Parameters
    source: Picture | Embedding
    answer: asyncio.Future[Done]

    def submit(self) -> Submit:
        """The message that makes a worker run this."""
        return Submit(self.request_id, self.parameters, self.source)

    def finish(self, done: Done) -> None:
        """Answer; a caller that went away in the same moment is no error."""
        if not self.answer.done():
            self.answer.set_result(done)

    def fail(self, error: VariationsError) -> None:
        """Answer with an error; a caller that went away in the same moment is no error."""
        if not self.answer.done():
            self.answer.set_exception(error)
