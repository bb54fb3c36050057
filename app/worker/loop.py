"""The worker's loop, once its model is loaded: receive, encode, step, decode, report."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NoReturn

from app.errors import InvalidParameter
from app.ipc.messages import (
    Cancel,
    DecodeStats,
    Dropped,
    Encoded,
    Failed,
    Failure,
    FromWorker,
    PictureDone,
    RanOut,
    Submit,
    ToWorker,
    WorkStage,
)
from app.parameters import Parameters
from app.pipeline import Decoded, Pipeline, Sample, Step
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.batcher import Batch, Batcher, Ticket, decoded_next, encoded_next, encoded_now
from app.scheduling.batcher import tickets as tickets_of
from app.worker.jobs import Beginning, Decodings, Encodings, Jobs
from app.worker.previews import begin_previews
from app.worker.retry import Retry, for_the_caller, raise_if_lost
from app.worker.side import Side
from app.worker.state import PendingStep, RequestState
from app.worker.tuning import Tuning

logger = logging.getLogger(__name__)

Inbox = SimpleQueue[tuple[float, ToWorker | Callable[[], None]]]
"""Messages, and what the side has done, each with the moment of its arrival."""

PREPARING_SECONDS = 0.005
"""Of each turn, at most, for a solver table that a newcomer needs while others are stepped."""

NOT_ENCODED = "The picture could not be encoded"
NOT_STEPPED = "A denoising step failed for this request"
NOT_DECODED = "A picture could not be decoded"


class Worker:
    """Requests in from ``inbox``, pictures out through ``send``.

    One thread decides and steps; ``side`` encodes and decodes, at most ``at_once`` pictures
    together.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batcher: Batcher,
        inbox: Inbox,
        send: Callable[[FromWorker], None],
        at_once: int,
        tuning: Tuning,
        side: Side,
    ) -> None:
        self._pipeline = pipeline
        self._batcher = batcher
        self._inbox = inbox
        self._send = send
        self._at_once = at_once
        # A CPU has done a step when the call returns; a GPU works on one while the next is queued.
        self._steps_ahead = 0 if pipeline.model.device == "cpu" else 1
        self._tuning = tuning
        self._batcher.cap = tuning.row_cap.rows
        self._side = side
        self._retry = Retry(self._make_room)
        beside = Retry(self._make_room_beside)
        self._jobs = Jobs(pipeline, beside if self._side.beside else self._retry)
        self._states: dict[str, RequestState] = {}
        self._unencoded: list[Submit] = []
        self._pending: deque[PendingStep] = deque()
        self._undecoded: deque[Ticket] = deque()
        self._encoding: set[str] = set()
        self._decoding: set[str] = set()
        """Requests that the side has in hand."""
        self._leaving: set[str] = set()
        """Cancelled, and not yet said to be gone."""
        self._last_step_ended = 0.0

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

    # Receive

    def _receive(self) -> None:
        """Take in all that has arrived, waiting for it if there is nothing else to do."""
        if not self._has_work():
            self._take(*self._inbox.get())
        with suppress(Empty):
            while True:
                self._take(*self._inbox.get_nowait())

    def _has_work(self) -> bool:
        to_encode = self._unencoded and not self._encoding
        to_decode = self._undecoded and not self._decoding
        return bool(to_encode or to_decode or self._pending or len(self._batcher))

    def _take(self, arrived: float, message: ToWorker | Callable[[], None]) -> None:
        match message:
            case Submit(request_id, parameters, previews=previews):
                self._states[request_id] = RequestState(request_id, parameters, arrived, previews)
                self._unencoded.append(message)
            case Cancel(request_id):
                self._drop(request_id)
                if any(request_id in pending.batch.request_ids for pending in self._pending):
                    self._finish()  # or it might end this process after it is said to be gone
                self._leaving.add(request_id)
                self._release({request_id})
            case _ if callable(message):
                message()
            case _:
                logger.error("Not a message for now: %r", type(message))

    # Encode

    def _encode(self) -> None:
        """Have the conditions that are due first encoded; their samples then join the batcher."""
        submits = [] if self._encoding else self._prepared()
        if not submits:
            return
        if not self._side.beside:
            self._finish()  # the device would do that first anyway; now its step is timed rightly
        for submit in submits:
            self._unencoded.remove(submit)
        self._encoding = {submit.request_id for submit in submits}
        began = perf_counter()
        self._side.run(lambda: self._jobs.encode(submits), lambda done: self._encoded(began, done))

    def _prepared(self) -> list[Submit]:
        """The next to be encoded, whose solver tables are there; works a little on others'.

        Where steps stand still meanwhile, nobody is encoded long before there is room.
        """
        idle = not (len(self._batcher) or self._undecoded)
        left = math.inf if idle else PREPARING_SECONDS
        prepared: list[Submit] = []
        in_order = sorted(self._unencoded, key=lambda submit: submit.due)
        for submit in encoded_next(in_order, self._at_once):
            began = perf_counter()
            if self._pipeline.build_table(submit.parameters, left):
                prepared.append(submit)
            left = max(0.0, left - (perf_counter() - began))
        beside = self._side.beside
        return prepared if beside else encoded_now(prepared, self._at_once, self._batcher)

    def _encoded(self, began: float, encoded: Encodings) -> None:
        for submit, beginning in encoded.each:
            if submit.request_id not in self._states:  # cancelled meanwhile
                continue
            with self._failing_alone(submit.request_id, NOT_ENCODED):
                if isinstance(beginning, Exception):
                    raise beginning
                self._states[submit.request_id].encoded(began, encoded.ended)
                self._join(submit, beginning, encoded.seconds(submit, began))
        encoding, self._encoding = self._encoding, set()
        self._release(encoding)

    def _join(self, submit: Submit, beginning: Beginning, seconds: float) -> None:
        state = self._states[submit.request_id]
        state.joined(self._retry.alone("encode", lambda: self._start(state.parameters, beginning)))
        embeddings = {id(each): each for row in beginning.rows for each in row.embeddings}
        latents, known = beginning.latents_seconds, tuple(embeddings.values())
        self._send(Encoded(submit.request_id, seconds, latents, known))
        for ticket in tickets_of(submit.request_id, state.parameters, submit.due):
            self._batcher.add(ticket)

    def _start(self, parameters: Parameters, beginning: Beginning) -> list[Sample]:
        rows, origin = beginning.rows, beginning.begins_from
        indices = range(parameters.n)
        return [self._pipeline.start(rows, parameters, index, origin) for index in indices]

    # Step

    def _step(self) -> None:
        """Submit the next step, and wait until no more than allowed are under way.

        Where the one under way was somebody's last, and there is nothing beside it, the next waits
        for the decode: what is finished should not wait for another step.
        """
        finishing = not self._side.beside and any(pending.finished for pending in self._pending)
        batch = None if finishing else self._batcher.next()
        if batch:
            self._pending.append(self._submit(batch))
        self._finish(but=self._steps_ahead if batch else 0)

    def _submit(self, batch: Batch) -> PendingStep:
        began = perf_counter()
        steps = self._retry.in_halves("step", batch.tickets, self._step_together, self._step_alone)
        finished = tuple(self._batcher.advance(batch))
        states = [self._states[name] for name in batch.request_ids if name in self._states]
        previews = begin_previews(self._pipeline, states)
        return PendingStep(batch, tuple(steps), finished, began, previews)

    def _step_together(self, tickets: Sequence[Ticket]) -> list[Step]:
        samples = self._samples(self._wanted(tickets))
        rows = sum(sample.rows for sample in samples)
        try:
            return self._call(samples, self._batcher.bucket(rows))
        except Exception as error:
            if ran_out_of_memory(error):
                self._tuning.row_cap.lower(rows)
                self._batcher.cap = self._tuning.row_cap.rows
            raise

    def _step_alone(self, ticket: Ticket) -> list[Step]:
        samples = self._samples(self._wanted([ticket]))
        rows = sum(sample.rows for sample in samples)
        with self._failing_alone(ticket.request_id, NOT_STEPPED):
            return self._retry.alone(
                "step",
                lambda: self._call(samples, self._batcher.bucket(rows)),
                smaller=lambda: self._call(samples, rows),
            )
        return []

    def _call(self, samples: Sequence[Sample], bucket: int) -> list[Step]:
        return [self._pipeline.step(samples, bucket)] if samples else []

    def _finish(self, *, but: int = 0) -> None:
        """Wait until the device has done the steps under way, but so many, and count them."""
        while len(self._pending) > but:
            self._count(self._pending.popleft())

    def _count(self, pending: PendingStep) -> None:
        pending.wait()
        ended = perf_counter()
        began = max(pending.began, self._last_step_ended)
        self._last_step_ended = ended
        batch = pending.batch
        states = [self._states[name] for name in batch.request_ids if name in self._states]
        for state in states:
            state.stepped(began, ended)
        for preview in pending.previews.messages() if pending.previews else ():
            self._send(preview)
        self._undecoded.extend(self._wanted(pending.finished))
        self._tuning.stepped(batch, ended - began)
        self._batcher.cap = self._tuning.row_cap.rows
        self._send(pending.stats(ended - began, states, self._batcher.cap))

    # Decode

    def _decode(self) -> None:
        """Have the samples that have waited longest decoded, one micro-batch of one size."""
        tickets = [] if self._decoding else decoded_next(self._undecoded, self._at_once)
        if not tickets:
            return
        for ticket in tickets:
            self._undecoded.remove(ticket)
        self._decoding = {ticket.request_id for ticket in tickets}
        members = list(zip(tickets, self._samples(tickets), strict=True))
        began = perf_counter()
        self._side.run(lambda: self._jobs.decode(members), lambda done: self._decoded(began, done))

    def _decoded(self, began: float, decodings: Decodings) -> None:
        size = decodings.each[0][0].size
        self._send(DecodeStats(len(decodings.each), size, decodings.ended - began))
        noted: set[str] = set()
        for ticket, decoded, moments in decodings.each:
            state = self._states.get(ticket.request_id)
            if state is None:  # cancelled meanwhile, or failed by another of its pictures
                continue
            with self._failing_alone(ticket.request_id, NOT_DECODED):
                if isinstance(decoded, Exception):
                    raise decoded
                if ticket.request_id not in noted:
                    noted.add(ticket.request_id)
                    state.decoded(*moments)
                self._deliver(state, ticket, decoded)
        decoding, self._decoding = self._decoding, set()
        self._release(decoding)

    def _deliver(self, state: RequestState, ticket: Ticket, decoded: Decoded) -> None:
        if decoded.error:
            self._fail(ticket.request_id, decoded.error)
            return
        del state.samples[ticket.index]  # its tensors can go
        picture, near = decoded.picture, decoded.near_duplicate
        self._send(PictureDone(ticket.request_id, ticket.index, picture, near))
        if not state.samples:
            del self._states[ticket.request_id]
            self._send(state.done())

    # What may be needed at every stage

    def _release(self, request_ids: set[str]) -> None:
        """Tell of those that were cancelled that they are gone, unless work goes on for them."""
        for request_id in self._leaving & request_ids - self._encoding - self._decoding:
            self._leaving.discard(request_id)
            self._send(Dropped(request_id))

    def _wanted(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Those of requests that were not cancelled and have not failed meanwhile."""
        return [ticket for ticket in tickets if ticket.request_id in self._states]

    def _samples(self, tickets: Sequence[Ticket]) -> list[Sample]:
        return [self._states[ticket.request_id].samples[ticket.index] for ticket in tickets]

    def _drop(self, request_id: str) -> None:
        """Forget a request wherever it is; what is on the device of it goes unread."""
        self._states.pop(request_id, None)
        self._batcher.cancel(request_id)
        self._unencoded = [s for s in self._unencoded if s.request_id != request_id]
        self._undecoded = deque(t for t in self._undecoded if t.request_id != request_id)

    def _fail(self, request_id: str, message: str, kind: Failure = "failed") -> None:
        self._drop(request_id)
        self._send(Failed(request_id, message, kind))

    @contextmanager
    def _failing_alone(self, request_id: str, message: str) -> Iterator[None]:
        """Let an error in here fail the request, and nothing else unless the device is lost."""
        try:
            yield
        except InvalidParameter as error:  # nothing has failed: it asks for what there is not
            self._fail(request_id, *for_the_caller(error, message))
        except Exception as error:
            raise_if_lost(error)
            extra = {"request_id": request_id}
            logger.exception("Request %s: %s", request_id, message, extra=extra)
            self._fail(request_id, *for_the_caller(error, message))

    def _make_room(self, stage: WorkStage) -> None:
        """Free what memory there is, once ``stage`` has run out of it."""
        self._send(RanOut(stage))
        for pending in self._pending:
            pending.wait()
        self._pipeline.free_memory()

    def _make_room_beside(self, stage: WorkStage) -> None:
        """The same from the side's thread, to which the steps under way do not belong."""
        self._send(RanOut(stage))
        self._pipeline.free_memory()
