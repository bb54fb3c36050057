"""How many rows a step should have at most: where more company stops to pay."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SMALLEST_CAP = 2
"""Rows of one sample with guidance; a cap below would never let it run."""

LARGEST_CAP = 128
LEAST_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Knee:
    """The cap in rows, and the seconds of one step for every bucket that was timed."""

    cap: int
    step_seconds: dict[int, float]


def find_knee(seconds_of_step: Callable[[int], float], largest: int = LARGEST_CAP) -> Knee:
    """Double the bucket from one sample's rows until that gains less than 5 % rows a second.

    ``seconds_of_step`` times one step of a bucket; infinity says that it does not fit. A table
    that an earlier call returned does for it as well, and gives the same cap again.
    """
    cap, table = SMALLEST_CAP, {SMALLEST_CAP: seconds_of_step(SMALLEST_CAP)}
    for bucket in powers_of_two(2 * SMALLEST_CAP, largest):
        seconds = seconds_of_step(bucket)
        if math.isfinite(seconds):
            table[bucket] = seconds
        if bucket / seconds < LEAST_GAIN * cap / table[cap] or math.isinf(seconds):
            break
        cap = bucket
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
