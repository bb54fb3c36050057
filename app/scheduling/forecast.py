"""Forecast: the end of every request, by running the worker's turns forward over learned costs.

There is no model of the queue here. It is the batcher itself that is run, so the forecast knows
everything that the batcher knows: joining, waiting past the cap, sizes that take turns.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from app.parameters import Parameters
from app.scheduling.batcher import Batcher, Ticket, decoded_next
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
    somebody's last, or a long queue would take long to predict. ``line`` is not changed.
    """
    line, to_encode, to_decode = line.copy(), deque(unencoded), list(undecoded)
    step_seconds = cache(costs.step)  # a few sizes and buckets, asked for at every step
    now = 0.0
    started: dict[str, float] = {}
    finished: dict[str, float] = {}
    missing = Counter(ticket.request_id for ticket in [*line, *to_decode])
    while to_encode or len(line) or to_decode:
        if to_encode:
            request_id, parameters = to_encode.popleft()
            now += costs.encode
            missing[request_id] = parameters.n
            for ticket in tickets(request_id, parameters):
                line.add(ticket)

        if batches := line.round():
            only_steps = not to_encode and not to_decode
            steps = line.steps_to_a_last(batches) if only_steps else 1
            seconds = [step_seconds(batch.size, batch.bucket) for batch in batches]
            for batch, each in zip(batches[:steps], seconds, strict=False):
                for ticket in batch.tickets:
                    started.setdefault(ticket.request_id, now)
                now += each
            # Nobody starts after the first round.
            rounds, more = divmod(max(steps - len(batches), 0), len(batches))
            now += rounds * sum(seconds) + sum(seconds[:more])
            to_decode += line.advance_round(batches, steps)

        if together := decoded_next(to_decode, decoded_at_once):
            now += len(together) * costs.decode(together[0].size)
        for ticket in together:
            to_decode.remove(ticket)
            missing[ticket.request_id] -= 1
            if missing[ticket.request_id] == 0:
                finished[ticket.request_id] = now
    return {name: Span(started.get(name, 0.0), end) for name, end in finished.items()}
