"""The row cap, the most rows of a step: found at start, corrected and lowered while serving."""

from collections.abc import Mapping
from enum import StrEnum

SMALLEST_CAP = 2
"""Rows of one sample with guidance; a cap below would never let it run."""

WORTHWHILE = 0.92
"""Of the most rows a second that any number of rows gives: past that, rows only make steps long."""

ONE_REQUEST = 8
"""Rows of four pictures with guidance: with a lower cap such a request would wait for itself."""

LONGEST_STEP = 2.0
"""Seconds of a step that the cap is not raised to :data:`ONE_REQUEST` for."""

TWO_REQUESTS = 16
"""Rows of two such requests, who then need not wait for each other."""

SHORT_STEP = 0.25
"""Seconds of a step, at most, that the cap is raised to :data:`TWO_REQUESTS` for."""

CALM_STEPS = 50
"""Steps without a shortage after which one sample more may join."""

LOOK_AGAIN_STEPS = 200
"""Steps after which the cap is found again by what steps have taken."""

_WEIGHT = 0.1
"""Of a new step, against all before it."""


class CapReason(StrEnum):
    """The reason for a row cap."""

    SET = "set"
    FIXED_BUCKET = "fixed bucket"
    THROUGHPUT = "throughput"
    ONE_REQUEST = "one request"
    TWO_REQUESTS = "two requests"
    MEMORY = "memory"


def find_row_cap(
    seconds: Mapping[int, float], *, fits: bool = True, most: int | None = None
) -> tuple[int, CapReason]:
    """The fewest rows that give 92 % of the most rows a second, and why not others.

    ``seconds`` are those of a step by its rows; where not ``fits``, more did not fit in memory.
    There are no more than ``most``. Few enough rows for a short step, and enough for one full
    request where its step is not long, for two where theirs is short.
    """
    best = max(rows / each for rows, each in seconds.items())
    cap = min(rows for rows, each in seconds.items() if rows / each >= WORTHWHILE * best)
    cap = min(cap, most or cap)
    longest = {
        rows: LONGEST_STEP if rows <= ONE_REQUEST else SHORT_STEP
        for rows in seconds
        if rows <= TWO_REQUESTS
    }
    room = max((rows for rows, limit in longest.items() if seconds[rows] <= limit), default=0)
    if room > cap:
        return room, CapReason.TWO_REQUESTS if room > ONE_REQUEST else CapReason.ONE_REQUEST
    if cap == max(seconds) and not fits:
        return cap, CapReason.MEMORY
    return cap, CapReason.THROUGHPUT


class RowCap:
    """The most rows that a step may have now.

    It begins as ``rows``. Where ``seconds`` are given, those of a step by its rows as they were
    measured, it is found anew now and then by what steps really take, and moves by a factor of two
    at most. While memory is short it is lower.
    """

    def __init__(self, rows: int, seconds: Mapping[int, float] | None = None) -> None:
        self.rows = rows
        self._highest = self._first = rows
        self._seconds = dict(seconds or {})
        self._slowness: dict[int, float] = {}
        """Times what was measured that steps take, by their rows."""
        self._any_slowness = 1.0
        """The same for any rows."""
        self._calm_steps = 0
        self._steps = 0

    def lower(self, rows: int) -> None:
        """A step of ``rows`` rows did not fit in memory: from now on half as many may run."""
        self._calm_steps = 0
        self.rows = min(self.rows, max(SMALLEST_CAP, rows // 2))

    def stepped(self, rows: int, slowness: float) -> None:
        """A step of ``rows`` rows took ``slowness`` times what it was measured to take.

        After :data:`CALM_STEPS` without a shortage the cap rises by the rows of one sample.
        """
        if rows in self._seconds:
            self._learn(rows, slowness)
        self._calm_steps += 1
        if self._calm_steps >= CALM_STEPS:
            self._calm_steps = 0
            self.rows = min(self._highest, self.rows + SMALLEST_CAP)

    def _learn(self, rows: int, slowness: float) -> None:
        known = self._slowness.get(rows, self._any_slowness)
        self._slowness[rows] = known + _WEIGHT * (slowness - known)
        self._any_slowness += _WEIGHT * (slowness - self._any_slowness)
        self._steps += 1
        if self._steps % LOOK_AGAIN_STEPS == 0:
            found, _ = find_row_cap(
                {
                    each: seconds * self._slowness.get(each, self._any_slowness)
                    for each, seconds in self._seconds.items()
                }
            )
            memory_is_short = self.rows < self._highest
            self._highest = min(max(found, self._first // 2, SMALLEST_CAP), 2 * self._first)
            if not memory_is_short:  # else it rises by and by
                self.rows = self._highest
