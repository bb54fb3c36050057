"""The mirror of the worker's queue: every unfinished request, and where the worker is with it.

It follows the worker by what that reports, with a batcher of its own. So it knows which requests
were in the worker's steps when it ended, and can predict when each will be finished.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter

from app.engine import attempts
from app.engine.generation import Generation, Status
from app.ipc.messages import DecodeStats, Encoded, Ready, StepStats
from app.parameters import Parameters
from app.scheduling.batcher import Batch, Batcher, Ticket, encoded_next, tickets
from app.scheduling.costs import Costs
from app.scheduling.forecast import Forecast, Waiting, forecast

NEWCOMER = ""
"""The id, in a forecast, of a request that has not been accepted yet."""


class Mirror:
    """Generations in the order of their acceptance. Plain code without clock, process or loop.

    For each worker: :meth:`worker_ready`, then :meth:`due`, :meth:`submit`, :meth:`encoded`,
    :meth:`stepped`, :meth:`decoded` and :meth:`remove` as it gets on, then :meth:`worker_lost`.
    A generation that was cancelled stays with the worker until it has :meth:`dropped` it.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        self.lowest = Costs()
        """The lowest that each cost has been."""
        self.work_done = 0
        """Row-steps that have been done."""
        self._unfinished: dict[str, Generation] = {}
        self._submitted: dict[str, Generation] = {}
        """Those that the worker has, in the order in which it got them; cancelled ones too."""
        self._encoded: dict[str, list[Ticket]] = {}
        """The samples of those that have joined the line, by their ids."""
        self._buckets: tuple[int, ...] = (1,)
        self._cap = 1
        self._line = self._empty_line()
        self._at_once = 1
        self._forecast: Forecast | None = None
        self._news = False
        """More has happened since the forecast was made than that time has passed."""

    def __len__(self) -> int:
        return len(self._unfinished)

    def __iter__(self) -> Iterator[Generation]:
        return iter(tuple(self._unfinished.values()))

    def get(self, request_id: str) -> Generation | None:
        """The generation, unless it has ended."""
        return self._unfinished.get(request_id)

    def add(self, generation: Generation) -> None:
        """Put a generation at the end. Raises :class:`ValueError` where its id is known already."""
        if generation.request_id in self._unfinished:
            raise ValueError(f"request {generation.request_id!r} is already in the queue")
        self._unfinished[generation.request_id] = generation
        known = self._forecast.spans if self._forecast else {}
        stale = not known or len(known) > 2 * len(self)  # it knows of nobody, or of too many
        if stale or generation.request_id in known:
            self._forecast = None
        if self._forecast:
            self._forecast.append(generation.request_id, generation.parameters, generation.due)
        self._news = True

    def remove(self, generation: Generation) -> None:
        """The worker has answered it."""
        self._unfinished.pop(generation.request_id, None)
        self.dropped(generation.request_id)

    def cancel(self, generation: Generation) -> bool:
        """Nobody waits for it any more; gives whether the worker has it and must be told."""
        self._unfinished.pop(generation.request_id, None)
        self._news = True
        return generation.request_id in self._submitted

    @property
    def busy(self) -> bool:
        """The worker has something to do, if only to drop what was cancelled."""
        return bool(self._submitted)

    # While a worker lives

    def worker_ready(self, ready: Ready) -> None:
        """A new worker, which knows of no request yet."""
        self._buckets, self._cap = ready.buckets, ready.measured.row_cap
        self._line = self._empty_line()
        self._at_once = ready.at_once
        measured, size = ready.measured, ready.model.sizes[0]
        # A start beside others' work must not be taken for the best that this machine can do.
        for costs, times in (self.costs, 1.0), (self.lowest, measured.disturbance):
            costs.beside = ready.beside
            costs.measured(
                size,
                {bucket: seconds / times for bucket, seconds in measured.step_seconds.items()},
                ready.encode_seconds / times,
                ready.decode_seconds / times,
            )
        self._forecast = None

    def due(self) -> list[Generation]:
        """The generations to submit now."""
        return attempts.due(self._unfinished.values(), self._submitted.keys())

    def submit(self, generation: Generation) -> None:
        """The worker is sent it."""
        self._submitted[generation.request_id] = generation

    def submitted(self, request_id: str) -> Generation | None:
        """The generation, if the worker has it, cancelled or not."""
        return self._submitted.get(request_id)

    def dropped(self, request_id: str) -> None:
        """The worker has nothing more to do for it."""
        self._submitted.pop(request_id, None)
        self._encoded.pop(request_id, None)
        self._line.cancel(request_id)
        self._news = True

    def encoded(self, message: Encoded) -> None:
        """The samples of a request have joined the line."""
        generation = self._submitted.get(message.request_id)
        if generation is not None:
            each = message.seconds / generation.parameters.images
            self._learn(lambda: self.costs.learn_encode(each))
            if generation.parameters.strength is not None:
                size, seconds = generation.parameters.size, message.latents_seconds
                self._learn(lambda: self.costs.learn_latents(size, seconds))
            joined = tickets(generation.request_id, generation.parameters, generation.due)
            self._encoded[message.request_id] = joined
            for ticket in joined:
                self._line.add(ticket)

    def stepped(self, stats: StepStats) -> None:
        """The worker has taken a step."""
        self._learn(lambda: self.costs.learn_step(stats.size, stats.bucket, stats.seconds))
        self._line.cap = self._cap = stats.cap
        self.work_done += stats.rows
        joined = self._encoded
        taken = tuple(joined[name][i] for name, i in stats.members if name in joined)
        self._line.advance(Batch(taken, stats.size, stats.rows, stats.bucket, stats.waiting_rows))

    def decoded(self, stats: DecodeStats) -> None:
        """The worker has decoded some pictures."""
        self._learn(lambda: self.costs.learn_decode(stats.size, stats.pictures, stats.seconds))

    def stalled(self, seconds: float) -> float:
        """The part of an encode or decode in which no step was taken."""
        return 0.0 if self.costs.beside else seconds

    def running(self) -> list[Generation]:
        """The generations that the worker has in hand.

        Those in the step that is due, those with all their steps done, which it decodes, and the
        next to be encoded. Those it cannot have begun while it still has something to drop: it
        reads what it is sent in order, and drops first.
        """
        stepping = {ticket.request_id for ticket in self._line.running()}
        waiting = {ticket.request_id for ticket in self._line} - stepping
        unencoded = [one for name, one in self._submitted.items() if name not in self._encoded]
        dropping = any(one.status is Status.CANCELLED for one in self._submitted.values())
        begun = self._encoded.keys() - waiting
        in_steps = [one for name, one in self._submitted.items() if name in begun]
        following = self._encoded_next(sorted(unencoded, key=_due))
        in_hand = in_steps if dropping else in_steps + following
        return [one for one in in_hand if one.status is not Status.CANCELLED]

    def _encoded_next(self, in_order: list[Generation]) -> list[Generation]:
        """Those that the worker may have begun to encode.

        It may be a step ahead of its reports, and the first may wait for a solver table.
        """
        following = encoded_next(in_order, self._at_once)
        if self.costs.beside:
            return following
        later = self._line.copy()
        if batch := later.next():
            later.advance(batch)
        begun = any(line.takes(one) for line in (self._line, later) for one in following)
        return following if begun else []

    def worker_lost(self) -> list[Generation]:
        """The worker has ended, and all it had is to be submitted again; gives those running."""
        running = self.running()
        self._line = self._empty_line()
        self._submitted.clear()
        self._encoded.clear()
        self._forecast = None
        return running

    # Predictions

    def forecast(self, *, of_late: bool = False) -> Forecast:
        """The spans of all generations, and of any that came now.

        Seconds count from now, or from when there is a worker again.

        ``of_late`` takes the last one, if there was one for this worker: its seconds count from
        when it was made, and it knows of those that have come since, but of nothing else.
        """
        if self._forecast is None or (self._news and not of_late):
            self._forecast, self._news = self._run_forward(), False
        return self._forecast

    def _run_forward(self) -> Forecast:
        """All together; while there are last attempts, these alone and before all others."""
        waiting = [one for one in self if one.request_id not in self._submitted]
        last = [one for one in waiting if attempts.is_last(one)]
        if not any(map(attempts.is_last, self)):
            return self._forecast_worker(waiting)
        spans = self._forecast_worker([]).spans
        for group in [*([one] for one in last), [one for one in waiting if one not in last]]:
            unencoded = [_waiting(one) for one in group]
            now = max((span.finished for span in spans.values()), default=0.0)
            idle = self._empty_line()
            after = Forecast(idle, unencoded, [], self.costs, self._at_once, begin=now)
            spans |= after.spans
        after.spans = spans
        return after

    def _forecast_worker(self, waiting: list[Generation]) -> Forecast:
        """What the worker has, and behind it those that wait for a worker."""
        there = [one for one in self if one.request_id in self._submitted]
        in_line = {ticket.request_id for ticket in self._line}
        unencoded = [
            _waiting(one) for one in there + waiting if one.request_id not in self._encoded
        ]
        undecoded = [
            ticket
            for one in there
            if one.request_id in self._encoded.keys() - in_line
            for ticket in self._encoded[one.request_id]
        ]
        line = self._line.copy()
        for name in in_line - self._unfinished.keys():
            line.cancel(name)
        return Forecast(line, unencoded, undecoded, self.costs, self._at_once)

    def fastest(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as fast as ever seen."""
        idle, alone = self._empty_line(), [Waiting(NEWCOMER, parameters)]
        return forecast(idle, alone, [], self.lowest, self._at_once)[NEWCOMER].finished

    def turn_seconds(self) -> float:
        """Seconds that the worker's present turn should take: an encode, a step, a decode."""
        batch = self._line.next()
        step = self.costs.step(batch.size, batch.bucket) if batch else 0.0
        sizes = {self._submitted[name].parameters.size for name in self._encoded}
        decode = max((self.costs.decode(size) for size in sizes), default=0.0)
        encodes = (self.costs.encoding(one.parameters) for one in self._submitted.values())
        encode = max([self._at_once * self.costs.encode, *encodes])
        return encode + self._at_once * decode + step

    def positions(self) -> Iterator[tuple[Generation, int]]:
        """The generations that wait for their first step, and how many are before each."""
        for position, generation in enumerate(sorted(self, key=_due)):
            if generation.status is Status.QUEUED:
                yield generation, position

    def _empty_line(self) -> Batcher:
        line = Batcher(self._buckets)
        line.cap = self._cap
        return line

    def _learn(self, learn: Callable[[], None]) -> None:
        learn()
        self.lowest.lower_to(self.costs)
        self._news = True


_due = attrgetter("due")


def _waiting(generation: Generation) -> Waiting:
    return Waiting(generation.request_id, generation.parameters, generation.due)
