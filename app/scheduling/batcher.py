"""The batcher: chooses who takes part in the next step, without clock, thread or tensor.

The policy, in full:

- Samples stand in one line, the one that is due first at its head, equals in the order in which
  they came. Those *running* are the longest prefix of the line whose rows fit the cap (always at
  least its head). Where the next sample does not fit, a smaller one behind it waits too.
- Work is counted in row-steps: one row of one step. A request is due :data:`PATIENCE` times its
  own work after the work that had been done when it came (see :func:`due_at`). So a short one
  overtakes a long one, which may be put aside for it, but only while it comes soon after: a
  request of work ``w`` is overtaken by nobody who comes ``PATIENCE * w`` row-steps later.
- A step has one picture size. Where several sizes are running they take turns, the one that has
  waited longest first: every running sample takes part in one of each ``k`` steps, with ``k``
  the number of sizes running.
- The cap counts the rows of all running samples, of every size: whoever is admitted later never
  makes the line before it slower than the cap already allows.
- A sample's rows may change from one of its steps to the next. Those of its next one count: where
  somebody gains a row, the last that is running may be put aside until there is room again.
- The step is padded to the smallest bucket that holds its rows.
- The cap is the largest bucket, or less for as long as it is set so.

Of the orders that were simulated over a mix of requests (``python -m benchmarks.order``) the
shortest median comes with shortest first or least remaining work, under which long requests starve.
This one has most of that gain, and its 99th percentile is hardly longer than by arrival.

Cancelling only shortens the line. With one size nobody finishes later for it; with several, the
next in line may start earlier and bring another size with it, which then takes its turns.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from app.parameters import Parameters, Phases, Size

PATIENCE = 3
"""Times its own work that a request lets others be done first."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A sample in the line: picture ``index`` of a request.

    ``phases`` are the UNet calls it needs. ``due`` is its place in the line, in row-steps.
    """

    request_id: str
    index: int
    size: Size
    phases: Phases
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: ``rows`` real rows of one size, padded to ``bucket``.

    ``waiting_rows`` are the rows of all other samples in the line, running or not.
    """

    tickets: tuple[Ticket, ...]
    size: Size
    rows: int
    bucket: int
    waiting_rows: int

    @property
    def request_ids(self) -> list[str]:
        """The requests that take part, each once."""
        return list(dict.fromkeys(ticket.request_id for ticket in self.tickets))


def due_at(work_done: float, parameters: Parameters) -> float:
    """The row-steps at which a request that comes now is due; ``work_done`` are those until now."""
    return work_done + PATIENCE * parameters.row_steps


def tickets(request_id: str, parameters: Parameters, due: float = 0.0) -> list[Ticket]:
    """The entries in the line for a request's samples."""
    size, phases = parameters.size, parameters.phases
    return [Ticket(request_id, index, size, phases, due) for index in range(parameters.n)]


class Encodable(Protocol):
    """A request that is not encoded yet."""

    @property
    def parameters(self) -> Parameters:
        """Its parameters."""

    @property
    def due(self) -> float:
        """Its place in the line, in row-steps."""


E = TypeVar("E", bound=Encodable)


def encoded_next(in_order: Iterable[E], at_once: int) -> list[E]:
    """The requests of the next encode: the first, and those behind it whose pictures fit.

    There are at most ``at_once`` pictures, unless the first alone has more.
    """
    together: list[E] = []
    images = 0
    for one in in_order:
        images += one.parameters.images
        if together and images > at_once:
            break
        together.append(one)
    return together


def encoded_now(in_order: Sequence[E], at_once: int, line: "Batcher") -> list[E]:
    """The requests of the next encode where steps stand still for it: see :func:`encoded_next`.

    That is put off until the first of them would take part in the next step or, as some have their
    last one now, in that after it: at that moment answers go out and further requests come in, and
    on a CPU that does all this an encode then took four times as long. Meanwhile others come, and
    several pictures encoded together take less time than one after the other.
    """
    return encoded_next(in_order, at_once) if in_order and line.takes(in_order[0]) else []


def decoded_next(undecoded: Sequence[Ticket], at_once: int) -> list[Ticket]:
    """The samples of the next decode: those that have waited longest, all of one size."""
    return [ticket for ticket in undecoded if ticket.size == undecoded[0].size][:at_once]


class Batcher:
    """The line of samples, and whose turn it is.

    ``buckets`` are the batch sizes a step may have, ascending; the largest is the cap in rows.
    A single bucket pads every step to it, which makes a sample's bytes independent of its company.
    """

    def __init__(self, buckets: Sequence[int]) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
            raise ValueError(f"buckets must be positive and ascending, not {list(buckets)}")
        self._buckets = tuple(buckets)
        self.cap = self._buckets[-1]
        """Most rows of all running samples, unless the first in line alone has more."""
        self._places: dict[Ticket, _Place] = {}
        self._in_order = True
        self._rows = 0
        self._turn = 0
        self._last_turn: dict[Size, int] = {}

    def copy(self) -> "Batcher":
        """The same line, to be run forward by itself."""
        twin = copy(self)
        twin._places, twin._last_turn = dict(self._places), dict(self._last_turn)
        return twin

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Ticket]:
        """The line, from its head."""
        return iter(tuple(self._line()))

    def add(self, ticket: Ticket) -> None:
        """Put a sample into the line, behind all that are due as early as it is, or earlier."""
        if ticket in self._places:
            raise ValueError(f"already in line: {ticket}")
        last = next(reversed(self._places), ticket)
        self._in_order = self._in_order and last.due <= ticket.due
        self._places[ticket] = place = _Place(0, *ticket.phases[0])
        self._rows += place.rows

    def cancel(self, request_id: str) -> None:
        """Take all samples of a request out of the line; an unknown request is fine."""
        for ticket in [t for t in self._places if t.request_id == request_id]:
            self._remove(ticket)

    def next(self) -> Batch | None:
        """The step that is due now, or ``None`` if the line is empty. Changes nothing."""
        return next(iter(self.round()), None)

    def round(self) -> list[Batch]:
        """The next steps: one of each size that is running, in the order of their turns.

        As long as the same samples are running, with as many rows as now, these steps come again
        and again in this order.
        """
        by_size: dict[Size, list[Ticket]] = {}
        for ticket in self.running():
            by_size.setdefault(ticket.size, []).append(ticket)
        turns = sorted(by_size, key=lambda size: self._last_turn.get(size, 0))
        return [self._batch(by_size[size]) for size in turns]

    def steps_to_a_change(self, batches: Sequence[Batch]) -> int:
        """The number of steps of the :meth:`round` until one is the last of some sample, or the
        last before it has another number of rows. What :meth:`takes` says may change a round
        earlier.
        """
        return 1 + min(
            turn + len(batches) * (min(self._places[t].left for t in batch.tickets) - 1)
            for turn, batch in enumerate(batches)
        )

    def advance(self, batch: Batch, steps: int = 1) -> list[Ticket]:
        """Count ``batch`` as done ``steps`` times; the samples for which that was the last step.

        Samples that were cancelled meanwhile are passed over.
        """
        self._turn += steps
        self._last_turn[batch.size] = self._turn
        finished = []
        for ticket in batch.tickets:
            if place := self._places.get(ticket):
                following = place.after(ticket.phases, steps)
                if following is None:
                    self._remove(ticket)
                    finished.append(ticket)
                else:
                    self._places[ticket] = following
                    self._rows += following.rows - place.rows
        return finished

    def advance_round(self, batches: Sequence[Batch], steps: int) -> list[Ticket]:
        """Count so many steps of the :meth:`round` as done, none after a change."""
        rounds, more = divmod(steps, len(batches))
        finished: list[Ticket] = []
        if rounds:
            for batch in batches[more:]:
                finished += self.advance(batch, rounds)
        for batch in batches[:more]:
            finished += self.advance(batch, rounds + 1)
        return finished

    def bucket(self, rows: int) -> int:
        """The smallest bucket that holds ``rows``, or ``rows`` themselves past the largest."""
        position = bisect_left(self._buckets, rows)
        return self._buckets[position] if position < len(self._buckets) else rows

    def running(self) -> Iterator[Ticket]:
        """The samples that take part in steps now, in the order of the line."""
        rows = 0
        for ticket, place in self._line().items():
            rows += place.rows
            if rows > max(self.cap, place.rows):
                return
            yield ticket

    def takes(self, request: Encodable) -> bool:
        """Whether a sample of ``request`` would take part in steps, were it here, once those who
        have but one left are gone.
        """
        (_, rows), *_ = request.parameters.phases
        before = standing = 0
        for ticket, place in self._line().items():
            if ticket.due > request.due or before > self.cap:
                break
            standing += place.rows
            runs = standing <= max(self.cap, place.rows)
            before += 0 if runs and place.is_last(ticket.phases) else place.rows
        return before == 0 or before + rows <= self.cap

    def _line(self) -> "dict[Ticket, _Place]":
        """The samples from the head of the line; sorted here, so that many may come at once."""
        if not self._in_order:
            in_line = sorted(self._places.items(), key=lambda item: item[0].due)
            self._places, self._in_order = dict(in_line), True
        return self._places

    def _batch(self, tickets: Sequence[Ticket]) -> Batch:
        rows = sum(self._places[ticket].rows for ticket in tickets)
        return Batch(tuple(tickets), tickets[0].size, rows, self.bucket(rows), self._rows - rows)

    def _remove(self, ticket: Ticket) -> None:
        self._rows -= self._places.pop(ticket).rows


class _Place(NamedTuple):
    """A sample in one of its phases: ``left`` steps with ``rows`` rows."""

    phase: int
    left: int
    rows: int

    def is_last(self, phases: Phases) -> bool:
        """The next step is the last."""
        return self.left == 1 and self.phase + 1 == len(phases)

    def after(self, phases: Phases, steps: int) -> "_Place | None":
        """The place some steps later; ``None`` after the last one."""
        if steps < self.left:
            return _Place(self.phase, self.left - steps, self.rows)
        if self.phase + 1 == len(phases):
            return None
        following = _Place(self.phase + 1, *phases[self.phase + 1])
        return following.after(phases, steps - self.left)
