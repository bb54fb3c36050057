"""What the worker does, turn by turn, once its model is loaded."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NoReturn, cast

import torch

from app.engine.batcher import Batch, Batcher, Ticket
from app.engine.messages import (
    Cancel,
    Embedding,
    Encoded,
    Failed,
    FromWorker,
    Picture,
    Stats,
    Submit,
    ToWorker,
)
from app.errors import VariationsError
from app.pipeline import Decoded, Pipeline, Step
from app.worker.work import Work

DeviceLost = torch.AcceleratorError
"""After one of these nothing works on the device any more: the process ends, and another starts."""

logger = logging.getLogger(__name__)

Inbox = SimpleQueue[tuple[float, ToWorker]]
"""Messages, each with the moment of its arrival."""

NOT_ENCODED = "The picture could not be encoded"
NOT_STEPPED = "A denoising step failed for this request"
NOT_DECODED = "A picture could not be decoded"


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that was handed to the device at ``started``.

    It is one step, or several where its members had to be stepped alone. For the samples in
    ``finished`` it was the last one.
    """

    batch: Batch
    steps: tuple[Step, ...]
    finished: tuple[Ticket, ...]
    started: float


class Worker:
    """Requests in from ``inbox``, pictures out through ``send``; one thread does it all."""

    def __init__(
        self,
        pipeline: Pipeline,
        batcher: Batcher,
        inbox: Inbox,
        send: Callable[[FromWorker], None],
        *,
        decoded_at_once: int,
    ) -> None:
        self._pipeline = pipeline
        self._batcher = batcher
        self._inbox = inbox
        self._send = send
        self._decoded_at_once = decoded_at_once
        # A CPU has done a step when the call returns; a GPU works on one while the next is queued.
        self._steps_ahead = 0 if pipeline.model.device == "cpu" else 1
        self._works: dict[str, Work] = {}
        self._unencoded: deque[Submit] = deque()
        self._flights: deque[Flight] = deque()
        self._undecoded: deque[Ticket] = deque()
        self._last_landing = 0.0

    def run(self) -> NoReturn:
        """Take turns for ever."""
        while True:
            self.turn()

    def turn(self) -> None:
        """One step of the batch and what lies between two; without work, wait for some."""
        self._receive()
        self._encode()
        self._step()
        self._decode()
        self._report()

    # Receive

    def _receive(self) -> None:
        """Take in all that has arrived, waiting for it if there is nothing else to do."""
        if not self._busy:
            self._take(*self._inbox.get())
        with suppress(Empty):
            while True:
                self._take(*self._inbox.get_nowait())

    @property
    def _busy(self) -> bool:
        return bool(self._unencoded or len(self._batcher) or self._flights or self._undecoded)

    def _take(self, arrived: float, message: ToWorker) -> None:
        match message:
            case Submit():
                self._works[message.request_id] = Work.of(message, arrived)
                self._unencoded.append(message)
            case Cancel(request_id):
                self._drop(request_id)
            case _:
                logger.error("Not a message for now: %r", type(message))

    def _drop(self, request_id: str) -> None:
        """Forget a request wherever it is; what is on the device of it goes unread."""
        self._works.pop(request_id, None)
        self._batcher.cancel(request_id)
        self._unencoded = deque(s for s in self._unencoded if s.request_id != request_id)
        self._undecoded = deque(t for t in self._undecoded if t.request_id != request_id)

    def _fail(self, request_id: str, message: str) -> None:
        self._drop(request_id)
        self._send(Failed(request_id, message))

    # Encode

    def _encode(self) -> None:
        """Encode the first picture in line and let its samples join."""
        if not self._unencoded:
            return
        submit = self._unencoded.popleft()
        try:
            self._join(self._works[submit.request_id], self._embedding(submit))
        except DeviceLost:
            raise
        except Exception as error:
            logger.exception("Request %s could not be started", submit.request_id)
            self._fail(submit.request_id, _for_the_caller(error, NOT_ENCODED))

    def _embedding(self, submit: Submit) -> Embedding:
        if submit.source.ndim == 1:
            return cast(Embedding, submit.source)
        work = self._works[submit.request_id]
        started = perf_counter()
        picture = cast(Picture, submit.source)
        embedding = self._pipeline.encode(picture, submit.parameters.fit)
        work.encode = perf_counter() - started
        return embedding

    def _join(self, work: Work, embedding: Embedding) -> None:
        parameters = work.parameters
        for index in range(parameters.n):
            work.samples[index] = self._pipeline.start(embedding, parameters, index)
        self._send(Encoded(work.request_id, embedding))
        for index, sample in work.samples.items():
            self._batcher.add(
                Ticket(work.request_id, index, sample.size, sample.rows, sample.steps)
            )

    # Step

    def _step(self) -> None:
        """Submit the next step, and wait until no more than allowed are under way."""
        batch = self._batcher.next()
        if batch:
            self._flights.append(self._submit(batch))
        while len(self._flights) > (self._steps_ahead if batch else 0):
            self._land(self._flights.popleft())

    def _submit(self, batch: Batch) -> Flight:
        started = perf_counter()
        try:
            steps = [self._call(batch.tickets, batch.bucket)]
        except DeviceLost:
            raise
        except Exception:
            logger.exception("A step of %d rows failed; its members go on alone", batch.rows)
            steps = self._call_each(batch)
        return Flight(batch, tuple(steps), tuple(self._batcher.advance(batch)), started)

    def _call(self, tickets: Sequence[Ticket], bucket: int) -> Step:
        samples = [self._works[ticket.request_id].samples[ticket.index] for ticket in tickets]
        return self._pipeline.step(samples, bucket)

    def _call_each(self, batch: Batch) -> list[Step]:
        """The same step member by member, so that only the culprit fails."""
        steps = []
        for ticket in batch.tickets:
            if ticket.request_id not in self._works:  # has failed by another of its samples
                continue
            try:
                steps.append(self._call([ticket], self._batcher.bucket(ticket.rows)))
            except DeviceLost:
                raise
            except Exception as error:
                logger.exception("Request %s failed in a step", ticket.request_id)
                self._fail(ticket.request_id, _for_the_caller(error, NOT_STEPPED))
        return steps

    def _land(self, flight: Flight) -> None:
        """Wait until the device has done a step, and count it."""
        for step in flight.steps:
            step.wait()
        ended = perf_counter()
        started = max(flight.started, self._last_landing)
        self._last_landing = ended
        works = self._works_of(flight.batch.tickets)
        for work in works:
            work.count_step(started, ended)
        self._undecoded.extend(t for t in flight.finished if t.request_id in self._works)
        self._send(_stats(flight.batch, works, ended - started))

    def _works_of(self, tickets: Sequence[Ticket]) -> list[Work]:
        """The requests of ``tickets`` that are still wanted, each once."""
        names = dict.fromkeys(ticket.request_id for ticket in tickets)
        return [self._works[name] for name in names if name in self._works]

    # Decode

    def _decode(self) -> None:
        """Decode the samples that have waited longest, one micro-batch of one size."""
        tickets = self._take_undecoded()
        if not tickets:
            return
        started = perf_counter()
        decoded = self._decoded(tickets)
        seconds = perf_counter() - started
        for work in self._works_of(tickets):
            work.decode += seconds
        for ticket, each in zip(tickets, decoded, strict=True):
            self._keep(ticket, each)

    def _take_undecoded(self) -> list[Ticket]:
        """Those whose turn it is to be decoded, out of their line."""
        same_size = [t for t in self._undecoded if t.size == self._undecoded[0].size]
        tickets = same_size[: self._decoded_at_once]
        for ticket in tickets:
            self._undecoded.remove(ticket)
        return tickets

    def _decoded(self, tickets: Sequence[Ticket]) -> list[Decoded]:
        """One result for each, an error for the culprit alone where decoding raises."""
        samples = [self._works[ticket.request_id].samples[ticket.index] for ticket in tickets]
        try:
            return self._pipeline.decode(samples)
        except DeviceLost:
            raise
        except Exception as error:
            logger.exception("Decoding %d pictures failed", len(tickets))
            if len(tickets) == 1:
                return [Decoded(None, error=_for_the_caller(error, NOT_DECODED))]
            return [self._decoded([ticket])[0] for ticket in tickets]

    def _keep(self, ticket: Ticket, decoded: Decoded) -> None:
        work = self._works.get(ticket.request_id)
        if work is None:  # has failed by another of its pictures
            return
        if decoded.error:
            self._fail(ticket.request_id, decoded.error)
        else:
            work.keep(ticket.index, decoded.picture)

    # Report

    def _report(self) -> None:
        """Answer the requests whose pictures are all there."""
        for work in [work for work in self._works.values() if work.complete]:
            del self._works[work.request_id]
            self._send(work.done())


def _stats(batch: Batch, works: Sequence[Work], seconds: float) -> Stats:
    return Stats(
        seconds=seconds,
        rows=batch.rows,
        bucket=batch.bucket,
        requests=len(works),
        schedules=len({work.schedule for work in works}),
        waiting_rows=batch.waiting_rows,
    )


def _for_the_caller(error: Exception, otherwise: str) -> str:
    """Our own words about what happened, and never those of a library."""
    return error.message if isinstance(error, VariationsError) else otherwise
