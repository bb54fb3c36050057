"""Time limits of a worker: that a process is alive does not prove that it makes progress."""

from collections.abc import Callable
from dataclasses import dataclass

_TIMES_THE_PREDICTION = 10.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without progress after which a worker is killed.

    ``start``: between two signs of progress while it loads and warms up. ``step``: between two
    messages while it has work, or ten times what they should take, whichever is longer.
    """

    start: float = 900.0
    step: float = 30.0


class Watchdog:
    """Measures the time since a worker last made progress; ``clock`` is in seconds."""

    def __init__(self, timeouts: Timeouts, clock: Callable[[], float]) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self._progress = clock()

    def progress(self) -> None:
        """The worker has made progress, or only now has something to do."""
        self._progress = self._clock()

    def left(self, turn_seconds: float | None) -> float:
        """Seconds left for a worker whose turn should take ``turn_seconds``.

        ``None`` is for one that is starting.
        """
        allowed = self._timeouts.start
        if turn_seconds is not None:
            allowed = max(self._timeouts.step, _TIMES_THE_PREDICTION * turn_seconds)
        return self._progress + allowed - self._clock()
