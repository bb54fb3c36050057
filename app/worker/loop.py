"""What the worker does, turn by turn, once its model is loaded."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NoReturn, TypeVar, cast

import torch

from app.errors import CheckpointError, InvalidParameter, VariationsError
from app.ipc.messages import (
    Cancel,
    DecodedSome,
    Dropped,
    Embedding,
    Encoded,
    Failed,
    Failure,
    FromWorker,
    RanOut,
    Stats,
    Submit,
    ToWorker,
    WorkStage,
)
from app.pictures import Picture
from app.pipeline import Decoded, Pipeline, Sample, Step
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.batcher import Batch, Batcher, Ticket
from app.scheduling.row_cap import Ceiling
from app.worker.state import Work

logger = logging.getLogger(__name__)

Inbox = SimpleQueue[tuple[float, ToWorker]]
"""Messages, each with the moment of its arrival."""

NOT_ENCODED = "The picture could not be encoded"
NOT_STEPPED = "A denoising step failed for this request"
NOT_DECODED = "A picture could not be decoded"
NOT_ENOUGH_MEMORY = "The device's memory does not hold this request, even with nothing else running"

TRIES = 5
"""Of what fails by itself: an error that passes, another program's memory, is nobody's loss."""

T = TypeVar("T")


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
        self._ceiling = Ceiling(batcher)

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
                if self._in_flight(request_id):
                    self._land_all()  # or it might end this process after it is said to be gone
                self._send(Dropped(request_id))
            case _:
                logger.error("Not a message for now: %r", type(message))

    def _drop(self, request_id: str) -> None:
        """Forget a request wherever it is; what is on the device of it goes unread."""
        self._works.pop(request_id, None)
        self._batcher.cancel(request_id)
        self._unencoded = deque(s for s in self._unencoded if s.request_id != request_id)
        self._undecoded = deque(t for t in self._undecoded if t.request_id != request_id)

    def _in_flight(self, request_id: str) -> bool:
        tickets = (ticket for flight in self._flights for ticket in flight.batch.tickets)
        return any(ticket.request_id == request_id for ticket in tickets)

    def _fail(self, request_id: str, message: str, kind: Failure = "failed") -> None:
        self._drop(request_id)
        self._send(Failed(request_id, message, kind))

    # Encode

    def _encode(self) -> None:
        """Encode the first picture in line and let its samples join."""
        if not self._unencoded:
            return
        self._land_all()  # the device would do that first anyway; now its step is timed rightly
        submit = self._unencoded.popleft()
        try:
            work = self._works[submit.request_id]
            self._join(work, self._embedding(work, submit.source))
        except Exception as error:
            _raise_if_lost(error)
            _log("Request %s could not be started", submit.request_id)
            self._fail(submit.request_id, *_for_the_caller(error, NOT_ENCODED))

    def _embedding(self, work: Work, source: Picture | Embedding) -> Encoded:
        if source.ndim == 1:
            return Encoded(work.request_id, cast(Embedding, source), None)
        picture, fit = cast(Picture, source), work.parameters.fit
        started = perf_counter()
        embedding = self._persistently("encode", lambda: self._pipeline.encode(picture, fit))
        work.encoded(started)
        return Encoded(work.request_id, embedding, perf_counter() - started)

    def _join(self, work: Work, encoded: Encoded) -> None:
        parameters = work.parameters

        def start() -> dict[int, Sample]:
            indices = range(parameters.n)
            return {i: self._pipeline.start(encoded.embedding, parameters, i) for i in indices}

        work.samples = self._persistently("encode", start)
        self._send(encoded)
        for index, sample in work.samples.items():
            self._batcher.add(
                Ticket(work.request_id, index, sample.size, sample.rows, sample.steps)
            )

    # Step

    def _step(self) -> None:
        """Submit the next step, and wait until no more than allowed are under way.

        Where the one under way was somebody's last, the next waits for the decode: what is
        finished should not wait for another step.
        """
        finishing = any(flight.finished for flight in self._flights)
        batch = None if finishing else self._batcher.next()
        if batch is None:
            self._land_all()
            return
        self._flights.append(self._submit(batch))
        while len(self._flights) > self._steps_ahead:
            self._land(self._flights.popleft())

    def _land_all(self) -> None:
        while self._flights:
            self._land(self._flights.popleft())

    def _submit(self, batch: Batch) -> Flight:
        started = perf_counter()
        steps = self._call(batch.tickets, batch.bucket)
        return Flight(batch, tuple(steps), tuple(self._batcher.advance(batch)), started)

    def _call(self, tickets: Sequence[Ticket], bucket: int) -> list[Step]:
        """One step of ``tickets``: in one call, or where that fails in halves, down to the culprit.

        A member that has failed meanwhile, by another of its samples, is left out.
        """
        tickets = [ticket for ticket in tickets if ticket.request_id in self._works]
        if not tickets:
            return []
        if len(tickets) == 1:
            return self._call_alone(tickets[0], bucket)
        try:
            return [self._call_together(tickets, bucket)]
        except Exception as error:
            _raise_if_lost(error)
            self._note("step", error, rows=_rows(tickets))
        middle = len(tickets) // 2
        return [
            step
            for half in (tickets[:middle], tickets[middle:])
            for step in self._call(half, self._batcher.bucket(_rows(half)))
        ]

    def _call_together(self, tickets: Sequence[Ticket], bucket: int) -> Step:
        samples = [self._works[ticket.request_id].samples[ticket.index] for ticket in tickets]
        return self._pipeline.step(samples, bucket)

    def _call_alone(self, ticket: Ticket, bucket: int) -> list[Step]:
        # What does not fit padded may fit by itself.
        buckets = chain(repeat(bucket, TRIES // 2), repeat(ticket.rows))
        try:
            return [
                self._persistently("step", lambda: self._call_together([ticket], next(buckets)))
            ]
        except Exception as error:
            _raise_if_lost(error)
            _log("Request %s failed in a step", ticket.request_id)
            self._fail(ticket.request_id, *_for_the_caller(error, NOT_STEPPED))
            return []

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
        self._ceiling.stepped()
        self._send(self._stats(flight, works, ended - started))

    def _stats(self, flight: Flight, works: Sequence[Work], seconds: float) -> Stats:
        batch = flight.batch
        return Stats(
            seconds=seconds,
            rows=batch.rows,
            bucket=batch.bucket,
            size=batch.size,
            members=tuple((ticket.request_id, ticket.index) for ticket in batch.tickets),
            schedules=len({work.schedule for work in works}),
            waiting_rows=batch.waiting_rows,
            cap=self._batcher.cap,
        )

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
        self._send(DecodedSome(len(tickets), tickets[0].size, perf_counter() - started))
        for ticket, each in zip(tickets, decoded, strict=True):
            self._keep(ticket, each)

    def _take_undecoded(self) -> list[Ticket]:
        """Those whose turn it is to be decoded, out of their line."""
        same_size = [t for t in self._undecoded if t.size == self._undecoded[0].size]
        tickets = same_size[: self._decoded_at_once]
        for ticket in tickets:
            self._undecoded.remove(ticket)
        return tickets

    def _decoded(self, tickets: Sequence[Ticket]) -> list[Decoded | Exception]:
        """One result for each; where decoding fails it is done in halves, down to the culprit."""
        if len(tickets) == 1:
            return [self._decoded_alone(tickets[0])]
        try:
            return [*self._decoded_together(tickets)]
        except Exception as error:
            _raise_if_lost(error)
            self._note("decode", error)
        middle = len(tickets) // 2
        return self._decoded(tickets[:middle]) + self._decoded(tickets[middle:])

    def _decoded_alone(self, ticket: Ticket) -> Decoded | Exception:
        try:
            return self._persistently("decode", lambda: self._decoded_together([ticket]))[0]
        except Exception as error:
            _raise_if_lost(error)
            _log("A picture of request %s could not be decoded", ticket.request_id)
            return error

    def _decoded_together(self, tickets: Sequence[Ticket]) -> list[Decoded]:
        samples = [self._works[ticket.request_id].samples[ticket.index] for ticket in tickets]
        began = unchecked = perf_counter()

        def check() -> None:
            nonlocal unchecked
            unchecked = perf_counter()

        decoded = self._pipeline.decode(samples, before_check=check)
        ended = perf_counter()
        for work in self._works_of(tickets):
            work.note("decode", began, unchecked)
            work.note("safety", unchecked, ended)
        return decoded

    def _keep(self, ticket: Ticket, decoded: Decoded | Exception) -> None:
        work = self._works.get(ticket.request_id)
        if work is None:  # has failed by another of its pictures
            return
        if isinstance(decoded, Exception):
            self._fail(ticket.request_id, *_for_the_caller(decoded, NOT_DECODED))
        elif decoded.error:
            self._fail(ticket.request_id, decoded.error)
        else:
            work.keep(ticket.index, decoded.picture)

    # Misfortune

    def _persistently(self, stage: WorkStage, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, by its last of several tries at the latest.

        Our own errors are about the request and would come again; those of a lost device too.
        """
        for _ in range(TRIES - 1):
            try:
                return attempt()
            except VariationsError:
                raise
            except Exception as error:
                _raise_if_lost(error)
                self._note(stage, error)
        return attempt()

    def _note(self, stage: WorkStage, error: Exception, rows: int | None = None) -> None:
        """Log an error that is going to be tried again; where memory ran out, make room first."""
        logger.warning("In %s: %s: %s; trying again", stage, type(error).__name__, error)
        if not ran_out_of_memory(error):
            return
        self._send(RanOut(stage))
        if rows is not None:
            self._ceiling.lower(rows)
        for flight in self._flights:
            for step in flight.steps:
                step.wait()
        self._pipeline.free_memory()

    # Report

    def _report(self) -> None:
        """Answer the requests whose pictures are all there."""
        for work in [work for work in self._works.values() if work.complete]:
            del self._works[work.request_id]
            self._send(work.done())


def _rows(tickets: Sequence[Ticket]) -> int:
    return sum(ticket.rows for ticket in tickets)


def _log(words: str, request_id: str) -> None:
    """The error that is being handled, and whose it was."""
    logger.exception(words, request_id, extra={"request_id": request_id})


def _raise_if_lost(error: Exception) -> None:
    """Once the device is lost nothing works on it: the process ends, and another starts."""
    if isinstance(error, torch.AcceleratorError) and not ran_out_of_memory(error):
        raise error


def _for_the_caller(error: Exception, otherwise: str) -> tuple[str, Failure]:
    """Our own words about what happened, and never those of a library."""
    match error:
        case InvalidParameter() | CheckpointError():
            return error.message, "parameters"
        case VariationsError():
            return error.message, "failed"
        case _ if ran_out_of_memory(error):
            return NOT_ENOUGH_MEMORY, "memory"
        case _:
            return otherwise, "failed"
