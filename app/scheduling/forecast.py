"""Forecast: the end of every request, by running the worker's turns forward over learned costs.

There is no model of the queue here. It is the batcher itself that is run, so the forecast knows
everything that the batcher knows: joining, waiting past the cap, sizes that take turns.
"""

from collections import Counter, deque
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from functools import cache

from app.parameters import Parameters, Size
from app.scheduling.batcher import Batch, Batcher, Ticket, decoded_next
from app.scheduling.costs import Costs


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds from now to a request's first step that is still to come, and to its last picture."""

    started: float
    finished: float


def tickets(request_id: str, parameters: Parameters) -> list[Ticket]:
    """The entries in the line for a request's samples."""
    return [
        Ticket(request_id, index, parameters.size, parameters.rows, parameters.calls)
        for index in range(parameters.n)
    ]


def forecast(
    line: Batcher,
    unencoded: Iterable[tuple[str, Parameters]],
    undecoded: Iterable[Ticket],
    costs: Costs,
    decoded_at_once: int,
) -> dict[str, Span]:
    """The :class:`Span` of every request in ``line``, ``unencoded`` and ``undecoded``, by its id.

    ``line`` is not changed.
    """
    run = _Run(line, unencoded, undecoded, costs, decoded_at_once)
    run.to_the_end()
    return run.spans()


class Forecast:
    """The spans of all requests, as :func:`forecast` has them, and of further ones behind them.

    A further one costs little, however long the queue: until all before it take part in steps it
    only waits. So the run is kept as it is then, and run on from there. The worker begins in
    ``begin`` seconds.
    """

    def __init__(
        self,
        line: Batcher,
        unencoded: Iterable[tuple[str, Parameters]],
        undecoded: Iterable[Ticket],
        costs: Costs,
        decoded_at_once: int,
        begin: float = 0.0,
    ) -> None:
        self.spans: dict[str, Span] = {}
        self._further: dict[tuple[int, int, int, Size], Span] = {}
        self._all_run = _Run(line, unencoded, undecoded, costs, decoded_at_once)
        self._all_run.now = begin
        self._settle()

    @property
    def wait(self) -> float:
        """Seconds from the forecast's beginning until all requests take part in steps."""
        return self._all_run.now

    def behind(self, parameters: Parameters) -> Span:
        """The span of a further request."""
        work = parameters.n, parameters.rows, parameters.calls, parameters.size
        if work not in self._further:
            run = self._all_run.copy()
            run.append(_FURTHER, parameters)
            run.to_the_end(of=_FURTHER)
            self._further[work] = run.spans()[_FURTHER]
        return self._further[work]

    def append(self, request_id: str, parameters: Parameters) -> None:
        """A further request has been accepted."""
        self._all_run.append(request_id, parameters)
        self._settle()

    def _settle(self) -> None:
        self._all_run.until_all_run()
        rest = self._all_run.copy()
        rest.to_the_end()
        self.spans |= rest.spans()
        self._further.clear()


_FURTHER = ""


class _Run:
    """The worker's turns, as :class:`app.worker.loop.Worker` takes them, run forward.

    A turn: encode one picture, step, decode one micro-batch. Turns with nothing but a step are
    counted together up to the next that is somebody's last, or a long queue would take long.
    """

    def __init__(
        self,
        line: Batcher,
        unencoded: Iterable[tuple[str, Parameters]],
        undecoded: Iterable[Ticket],
        costs: Costs,
        decoded_at_once: int,
    ) -> None:
        self.now = 0.0
        self._line, self._to_encode, self._to_decode = line.copy(), deque(unencoded), [*undecoded]
        self._spare = 0
        """Turns in which one more could have been encoded."""
        self._costs, self._decoded_at_once = costs, decoded_at_once
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

    def append(self, request_id: str, parameters: Parameters) -> None:
        """A further request, which had come before the run began, and changed nothing so far."""
        if self._spare:
            self._spare -= 1
            self._encode(request_id, parameters)
        else:
            self._to_encode.append((request_id, parameters))

    def spans(self) -> dict[str, Span]:
        """Of the requests that have been finished."""
        return {
            name: Span(self._started.get(name, 0.0), end) for name, end in self._finished.items()
        }

    def to_the_end(self, of: str | None = None) -> None:
        """Run until this request is finished, or all are."""
        while (self._to_encode or len(self._line) or self._to_decode) and of not in self._finished:
            self._turn()

    def until_all_run(self) -> None:
        """Run until every sample takes part in steps."""
        while self._to_encode or sum(1 for _ in self._line.running()) < len(self._line):
            self._turn(singly=True)

    def _turn(self, *, singly: bool = False) -> None:
        """The next turn, or several. ``singly``: only one where a newcomer could join after it."""
        if self._to_encode:
            self._encode(*self._to_encode.popleft())
        else:
            self._spare += 1
        if batches := self._line.round():
            all_run = sum(len(batch.tickets) for batch in batches) == len(self._line)
            one = self._to_encode or self._to_decode or (singly and all_run)
            self._step(batches, 1 if one else self._line.steps_to_a_last(batches))
        together = decoded_next(self._to_decode, self._decoded_at_once)
        if together:
            self.now += len(together) * self._costs.decode(together[0].size)
        for ticket in together:
            self._to_decode.remove(ticket)
            self._missing[ticket.request_id] -= 1
            if self._missing[ticket.request_id] == 0:
                self._finished[ticket.request_id] = self.now

    def _encode(self, request_id: str, parameters: Parameters) -> None:
        self.now += self._costs.encode
        self._missing[request_id] = parameters.n
        for ticket in tickets(request_id, parameters):
            self._line.add(ticket)

    def _step(self, batches: list[Batch], steps: int) -> None:
        self._spare += steps - 1
        seconds = [self._step_seconds(batch.size, batch.bucket) for batch in batches]
        for batch, each in zip(batches[:steps], seconds, strict=False):
            for ticket in batch.tickets:
                self._started.setdefault(ticket.request_id, self.now)
            self.now += each
        # Nobody starts after the first round.
        rounds, more = divmod(max(steps - len(batches), 0), len(batches))
        self.now += rounds * sum(seconds) + sum(seconds[:more])
        self._to_decode += self._line.advance_round(batches, steps)
