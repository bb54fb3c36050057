"""The row cap, the most rows of a step: found at start, lowered while memory is short."""

import math
from collections.abc import Callable

SMALLEST_CAP = 2
"""Rows of one sample with guidance; a cap below would never let it run."""

ROWS_TRIED = (4, 8, 16, 32, 64, 128)
LEAST_GAIN = 1.05
PATIENCE = 2
"""Doublings in a row that may gain too little: one alone may be a busy moment of the machine."""

CALM_STEPS = 50
"""Steps without a shortage after which one sample more may join."""


def find_row_cap(seconds_of_step: Callable[[int], float]) -> int:
    """Double the rows of a step for as long as that pays, and return the last number that did.

    A number of rows pays if it gives 5 % more rows a second than the last that did; the search
    ends where two doublings in a row do not. ``seconds_of_step`` times one step of so many rows;
    infinity says that they do not fit. The same times give the same cap.
    """
    cap, best = SMALLEST_CAP, seconds_of_step(SMALLEST_CAP)
    misses = 0
    for rows in ROWS_TRIED:
        seconds = seconds_of_step(rows)
        if math.isinf(seconds):
            break
        if rows / seconds >= LEAST_GAIN * cap / best:
            cap, best, misses = rows, seconds, 0
        elif (misses := misses + 1) == PATIENCE:
            break
    return cap


class RowCap:
    """The most rows that a step may have now: ``highest``, or fewer since memory ran out."""

    def __init__(self, highest: int) -> None:
        self.rows = highest
        self._highest = highest
        self._calm_steps = 0

    def lower(self, rows: int) -> None:
        """A step of ``rows`` rows did not fit in memory: from now on half as many may run."""
        self._calm_steps = 0
        self.rows = min(self.rows, max(SMALLEST_CAP, rows // 2))

    def stepped(self) -> None:
        """A step is done; after :data:`CALM_STEPS` the cap rises by the rows of one sample."""
        self._calm_steps += 1
        if self._calm_steps >= CALM_STEPS:
            self._calm_steps = 0
            self.rows = min(self._highest, self.rows + SMALLEST_CAP)
