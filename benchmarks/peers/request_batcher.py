"""The ideal batcher of whole requests: what a server could do at best that cannot mix them.

Requests of equal steps, guidance and scheduler share a call of the pipeline, whatever else waits
in between: those of the one that has waited longest come next. As soon as the model is free it
takes all there are, and waits for no more. The servers here that batch can do less: they take a
batch in the order of arrival, split it by those keys, and answer when the last part is done.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from torch import Tensor

from benchmarks.peers import web
from benchmarks.peers.model import Answer, Model, Request, batch, load

# Pictures of a call; `python -m benchmarks.peers.tune` tries others.
MOST_PICTURES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A request in the queue, with its encoder's input."""

    request: Request
    pixels: Tensor
    answer: asyncio.Future[Answer]


class RequestBatcher:
    """A queue, and a task that empties it batch by batch."""

    def __init__(self, model: Model, most_pictures: int) -> None:
        self._model = model
        self._most_pictures = most_pictures
        self._queue: deque[Waiting] = deque()
        self._running: asyncio.Task[None] | None = None

    async def variations(self, request: Request) -> Answer:
        """Answer a request."""
        pixels = await asyncio.to_thread(self._model.pixels, request)
        waiting = Waiting(request, pixels, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await waiting.answer

    async def _run(self) -> None:
        while self._queue:
            members = self._next()
            requests, pixels = [m.request for m in members], [m.pixels for m in members]
            try:
                answers = await asyncio.to_thread(self._model.call, requests, pixels)
            except Exception as error:  # whatever it is, those who wait must hear of it
                for member in members:
                    if not member.answer.done():  # whose client has gone
                        member.answer.set_exception(error)
            else:
                for member, answer in zip(members, answers, strict=True):
                    if not member.answer.done():
                        member.answer.set_result(answer)
        self._running = None

    def _next(self) -> list[Waiting]:
        """All that is like the first in the queue, as far as it fits."""
        first = self._queue[0].request
        members: list[Waiting] = []
        pictures = 0
        for waiting in list(self._queue):
            alike = waiting.request.key == first.key
            if alike and (not members or pictures + waiting.request.n <= self._most_pictures):
                members.append(waiting)
                pictures += waiting.request.n
                self._queue.remove(waiting)
        return members


if __name__ == "__main__":
    web.serve(RequestBatcher(load(), batch(MOST_PICTURES)).variations)
