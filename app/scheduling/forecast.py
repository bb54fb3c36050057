"""Forecast: the end of every request, by running the worker's turns forward over learned costs.

There is no model of the queue here. It is the batcher itself that is run, so the forecast knows
everything that the batcher knows: joining, waiting past the cap, sizes that take turns.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from app.parameters import Parameters, Size
from app.scheduling.batcher import Batcher, Ticket
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

    Turn by turn as :class:`app.worker.loop.Worker` takes them: encode one picture, step, decode
    one micro-batch. Turns with nothing but a step are counted together up to the next that is
    somebody's last. ``line`` is not changed.
    """
    run = _Run(line.copy(), deque(unencoded), list(undecoded), costs, decoded_at_once)
    while run.busy:
        run.encode()
        run.step()
        run.decode()
    return {name: Span(run.started.get(name, 0.0), end) for name, end in run.finished.items()}


class _Run:
    """A worker's turns without the work; ``now`` is in seconds from the start."""

    def __init__(
        self,
        line: Batcher,
        unencoded: deque[tuple[str, Parameters]],
        undecoded: list[Ticket],
        costs: Costs,
        decoded_at_once: int,
    ) -> None:
        self.line, self.unencoded, self.undecoded = line, unencoded, undecoded
        self.costs, self.decoded_at_once = costs, decoded_at_once
        self.step_seconds = cache(costs.step)  # a few sizes and buckets, asked for at every step
        self.now = 0.0
        self.started: dict[str, float] = {}
        self.finished: dict[str, float] = {}
        self.missing = Counter(ticket.request_id for ticket in [*line, *undecoded])

    @property
    def busy(self) -> bool:
        return bool(self.unencoded or len(self.line) or self.undecoded)

    def encode(self) -> None:
        if self.unencoded:
            request_id, parameters = self.unencoded.popleft()
            self.now += self.costs.encode
            self.missing[request_id] = parameters.n
            for ticket in tickets(request_id, parameters):
                self.line.add(ticket)

    def step(self) -> None:
        batches = self.line.round()
        if not batches:
            return
        # Equal steps are counted together, or a long queue would take long to predict.
        alone = not self.unencoded and not self.undecoded
        steps = self.line.steps_to_a_last(batches) if alone else 1
        seconds = [self.step_seconds(batch.size, batch.bucket) for batch in batches]
        for batch, each in zip(batches[:steps], seconds, strict=False):
            for ticket in batch.tickets:
                self.started.setdefault(ticket.request_id, self.now)
            self.now += each
        # Nobody starts after the first round.
        rounds, more = divmod(max(steps - len(batches), 0), len(batches))
        self.now += rounds * sum(seconds) + sum(seconds[:more])
        self.undecoded += self.line.advance_round(batches, steps)

    def decode(self) -> None:
        if not self.undecoded:
            return
        size: Size = self.undecoded[0].size
        chosen: list[Ticket] = []
        later: list[Ticket] = []
        for ticket in self.undecoded:
            fits = ticket.size == size and len(chosen) < self.decoded_at_once
            (chosen if fits else later).append(ticket)
        self.undecoded = later
        self.now += len(chosen) * self.costs.decode(size)
        for ticket in chosen:
            self.missing[ticket.request_id] -= 1
            if self.missing[ticket.request_id] == 0:
                self.finished[ticket.request_id] = self.now
