"""From what became of requests to the figures that are compared. Pure.

*Solo* is what a request of a kind takes alone on FastAPI + lock, with nothing else under way: the
same yardstick for every system. A request counts as answered in time where it took at most three
times that; one that was refused, failed or never answered does not.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.peers.load import Record

TIMES_SOLO = 3.0
GOOD_SHARE = 0.9
"""Of requests answered in time: the highest rate that still has it is a figure of a system."""

BURST_GAP = 0.25
"""Of the mean time from answer to answer, without one of which a burst ends: those of one batch
come together."""

Solo = Mapping[str, float]
"""Seconds alone of each kind of request."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of an open loop. Quantiles, in seconds, are of good answers; ``None`` where there is none."""

    requests: int
    p50: float | None
    p95: float | None
    p99: float | None
    in_time: float
    refused: int
    failed: int
    late: float

    @classmethod
    def of(cls, records: Sequence[Record], solo: Solo) -> "Latencies":
        """The figures of some records. ``late`` is the most that the generator missed a moment."""
        seconds = [record.seconds for record in records if record.good]
        refused = sum(record.status in (429, 503) for record in records)
        return cls(
            requests=len(records),
            p50=quantile(seconds, 0.5),
            p95=quantile(seconds, 0.95),
            p99=quantile(seconds, 0.99),
            in_time=in_time(records, solo),
            refused=refused,
            failed=len(records) - len(seconds) - refused,
            late=max((record.late for record in records), default=0.0),
        )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that this share of them does not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def in_time(records: Sequence[Record], solo: Solo) -> float:
    """The share of requests answered within :data:`TIMES_SOLO` times what they take alone."""
    good = sum(
        record.good and record.seconds <= TIMES_SOLO * solo[record.kind] for record in records
    )
    return good / len(records) if records else 0.0


def solo_of(records: Iterable[Record]) -> dict[str, float]:
    """The median of each kind, of requests that were posted one after the other."""
    kinds: dict[str, list[float]] = {}
    for record in records:
        if record.good:
            kinds.setdefault(record.kind, []).append(record.seconds)
    return {kind: statistics.median(seconds) for kind, seconds in kinds.items()}


def throughput(records: Sequence[Record], outstanding: int) -> float | None:
    """Good answers a second in a closed loop, from the end of one burst to that of another.

    A batch is answered at once, so a window that began or ended anywhere would have one too many or
    too few. It begins once the first ``outstanding`` are answered, when all that is under way is
    of the steady state. ``None`` where there is no such window.
    """
    answered = sorted(record.sent + record.seconds for record in records if record.good)
    if len(answered) <= outstanding:
        return None
    gap = BURST_GAP * (answered[-1] - answered[0]) / len(answered)
    ends = [one for one, following in pairwise([*answered, math.inf]) if following - one > gap]
    steady = [end for end in ends if end >= answered[outstanding - 1]]
    if len(steady) < 2:
        return None
    began, ended = steady[0], steady[-1]
    return sum(began < moment <= ended for moment in answered) / (ended - began)
