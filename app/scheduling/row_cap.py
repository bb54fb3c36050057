"""The row cap: found at start, where more rows stop to pay; lowered when memory runs out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.scheduling.batcher import Batcher

SMALLEST_CAP = 2
"""Rows of one sample with guidance; a cap below would never let it run."""

LARGEST_CAP = 128
LEAST_GAIN = 1.05
PATIENCE = 2
"""Doublings in a row that may gain too little: one alone may be a busy moment of the machine."""


@dataclass(frozen=True, slots=True)
class Knee:
    """The cap in rows, and the seconds of one step for every bucket that was timed."""

    cap: int
    step_seconds: dict[int, float]


def find_knee(seconds_of_step: Callable[[int], float], largest: int = LARGEST_CAP) -> Knee:
    """Double the bucket from one sample's rows for as long as that pays.

    The cap is the last bucket that gave 5 % more rows a second than the cap before it; growth ends
    where two doublings in a row do not.
    ``seconds_of_step`` times one step of a bucket; infinity says that it does not fit. A table
    that an earlier call returned does for it as well, and gives the same cap again.
    """
    cap, table = SMALLEST_CAP, {SMALLEST_CAP: seconds_of_step(SMALLEST_CAP)}
    misses = 0
    for bucket in powers_of_two(2 * SMALLEST_CAP, largest):
        seconds = seconds_of_step(bucket)
        if math.isinf(seconds):
            break
        table[bucket] = seconds
        if bucket / seconds >= LEAST_GAIN * cap / table[cap]:
            cap, misses = bucket, 0
        elif (misses := misses + 1) == PATIENCE:
            break
    return Knee(cap, table)


def knee_of(step_seconds: dict[int, float]) -> Knee:
    """The knee of a table that was measured before."""
    return find_knee(lambda bucket: step_seconds.get(bucket, math.inf))


def powers_of_two(first: int, last: int) -> Iterator[int]:
    """``first``, itself a power of two, and those that follow up to ``last``."""
    power = first
    while power <= last:
        yield power
        power *= 2


CALM_STEPS = 50
"""Steps without trouble after which one sample more may join."""


class Ceiling:
    """Lowers and raises the cap of a batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._highest = batcher.cap
        self._calm = 0

    def lower(self, rows: int) -> None:
        """A step of ``rows`` rows did not fit: half as many may."""
        self._calm = 0
        self._batcher.limit(min(self._batcher.cap, max(SMALLEST_CAP, rows // 2)))

    def stepped(self) -> None:
        """A step has been done."""
        if self._batcher.cap == self._highest:
            return
        self._calm += 1
        if self._calm >= CALM_STEPS:
            self._calm = 0
            self._batcher.limit(self._batcher.cap + SMALLEST_CAP)
