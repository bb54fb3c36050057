"""Forecast: the end of every request, by running the worker's turns forward over learned costs.

There is no model of the queue here. It is the batcher itself that is run, so the forecast knows
everything that the batcher knows: joining, waiting past the cap, sizes that take turns.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from operator import attrgetter

from app.parameters import Parameters, Phases, Size
from app.scheduling.batcher import (
    Batch,
    Batcher,
    Ticket,
    decoded_next,
    encoded_next,
    encoded_now,
    tickets,
)
from app.scheduling.costs import Costs


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds from now to a request's first step that is still to come, and to its last picture."""

    started: float
    finished: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that is not encoded yet."""

    request_id: str
    parameters: Parameters
    due: float = 0.0


def forecast(
    line: Batcher,
    unencoded: Iterable[Waiting],
    undecoded: Iterable[Ticket],
    costs: Costs,
    at_once: int,
) -> dict[str, Span]:
    """The :class:`Span` of every request in ``line``, ``unencoded`` and ``undecoded``, by its id.

    At most ``at_once`` pictures share an encode or a decode. ``line`` is not changed.
    """
    run = _Run(line, unencoded, undecoded, costs, at_once)
    run.to_the_end()
    return run.spans()


class Forecast:
    """The spans of all requests, as :func:`forecast` has them, and of a further one among them.

    The worker begins in ``begin`` seconds.
    """

    def __init__(
        self,
        line: Batcher,
        unencoded: Iterable[Waiting],
        undecoded: Iterable[Ticket],
        costs: Costs,
        at_once: int,
        begin: float = 0.0,
    ) -> None:
        self._beginning = _Run(line, unencoded, undecoded, costs, at_once)
        self._beginning.now = begin
        self._further: dict[tuple[int, Phases, Size, int, bool, int], Span] = {}
        self.spans = self._run()

    def further(self, parameters: Parameters, due: float = 0.0) -> Span:
        """The span of a further request that comes now."""
        before = sum(each <= due for each in self._beginning.dues())
        encodes = parameters.images, parameters.strength is not None
        work = parameters.n, parameters.phases, parameters.size, *encodes, before
        if work not in self._further:
            self._further[work] = self._run(Waiting(_FURTHER, parameters, due))[_FURTHER]
        return self._further[work]

    def append(self, request_id: str, parameters: Parameters, due: float = 0.0) -> None:
        """A further request has been accepted."""
        self._beginning.append(Waiting(request_id, parameters, due))
        self._further.clear()
        self.spans |= self._run()

    def _run(self, further: Waiting | None = None) -> dict[str, Span]:
        """Of all; where there is a ``further`` one, until that is finished."""
        run = self._beginning.copy()
        if further:
            run.append(further)
        run.to_the_end(further.request_id if further else None)
        return run.spans()


_FURTHER = ""

_due = attrgetter("due")


class _Run:
    """The worker's turns, as :class:`app.worker.loop.Worker` takes them, run forward.

    A turn: encode some pictures, step, decode some. Turns with nothing but a step are counted
    together up to the next after which the steps are others, or a long queue would take long.
    """

    def __init__(
        self,
        line: Batcher,
        unencoded: Iterable[Waiting],
        undecoded: Iterable[Ticket],
        costs: Costs,
        at_once: int,
    ) -> None:
        self.now = 0.0
        self._side_free_at = 0.0
        self._line, self._to_decode = line.copy(), [*undecoded]
        self._to_encode = deque(sorted(unencoded, key=_due))
        self._costs, self._at_once = costs, at_once
        self._step_seconds = cache(costs.step)  # a few sizes and buckets, asked for at every step
        self._started: dict[str, float] = {}
        self._finished: dict[str, float] = {}
        self._missing = Counter(ticket.request_id for ticket in [*line, *self._to_decode])

    def copy(self) -> "_Run":
        """The same moment, to be run on by itself."""
        twin = copy(self)
        twin._line, twin._to_encode = self._line.copy(), self._to_encode.copy()
        twin._to_decode = self._to_decode.copy()
        twin._started, twin._finished = self._started.copy(), self._finished.copy()
        twin._missing = self._missing.copy()
        return twin

    def dues(self) -> Iterator[float]:
        """The places of all that are not finished."""
        yield from (ticket.due for ticket in self._line)
        yield from (waiting.due for waiting in self._to_encode)

    def append(self, waiting: Waiting) -> None:
        """A further request, which comes as the run begins."""
        self._to_encode = deque(sorted([*self._to_encode, waiting], key=_due))

    def spans(self) -> dict[str, Span]:
        """Of the requests that have been finished."""
        return {
            name: Span(self._started.get(name, 0.0), end) for name, end in self._finished.items()
        }

    def to_the_end(self, of: str | None = None) -> None:
        """Run until this request is finished, or all are."""
        while (self._to_encode or len(self._line) or self._to_decode) and of not in self._finished:
            self._turn()

    def _turn(self) -> None:
        """The next turn, or several that are but a step."""
        for waiting in self._encodable():
            self._to_encode.popleft()
            self._encode(waiting)
        if batches := self._line.round():
            self._step(batches, self._steps(batches))
        together = decoded_next(self._to_decode, self._at_once)
        if together:
            done_at = self._spend(len(together) * self._costs.decode(together[0].size))
        for ticket in together:
            self._to_decode.remove(ticket)
            self._missing[ticket.request_id] -= 1
            if self._missing[ticket.request_id] == 0:
                self._finished[ticket.request_id] = done_at

    def _steps(self, batches: list[Batch]) -> int:
        """How many steps are taken before there is something else to do, or they change."""
        if self._to_decode or self._encodable():
            return 1
        steps = self._line.steps_to_a_change(batches)
        return max(1, steps - len(batches)) if self._to_encode else steps

    def _encodable(self) -> list[Waiting]:
        """Who is encoded before the next step."""
        if self._costs.beside:
            return encoded_next(self._to_encode, self._at_once)
        return encoded_now(self._to_encode, self._at_once, self._line)

    def _encode(self, waiting: Waiting) -> None:
        encoded_at = self._spend(self._costs.encoding(waiting.parameters))
        if not len(self._line):
            self.now = max(self.now, encoded_at)
        self._missing[waiting.request_id] = waiting.parameters.n
        for ticket in tickets(waiting.request_id, waiting.parameters, waiting.due):
            self._line.add(ticket)

    def _spend(self, seconds: float) -> float:
        """Encode or decode for so long; the moment at which that is done."""
        if not self._costs.beside:
            self.now += seconds
            return self.now
        self._side_free_at = max(self._side_free_at, self.now) + seconds
        return self._side_free_at

    def _step(self, batches: list[Batch], steps: int) -> None:
        seconds = [self._step_seconds(batch.size, batch.bucket) for batch in batches]
        for batch, each in zip(batches[:steps], seconds, strict=False):
            for ticket in batch.tickets:
                self._started.setdefault(ticket.request_id, self.now)
            self.now += each
        # Nobody starts after the first round.
        rounds, more = divmod(max(steps - len(batches), 0), len(batches))
        self.now += rounds * sum(seconds) + sum(seconds[:more])
        self._to_decode += self._line.advance_round(batches, steps)
