"""A worker that has work and says nothing is as good as dead."""

from collections.abc import Callable
from dataclasses import dataclass

_TIMES_THE_PREDICTION = 10.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent, in seconds.

    ``starting``: between two signs of progress while it loads and warms up. ``working``: between
    two steps, or ten times what the step should take, whichever is longer.
    """

    starting: float = 900.0
    working: float = 30.0


class Watchdog:
    """Measures silence; ``clock`` is in seconds. That a process is alive proves nothing."""

    def __init__(self, patience: Patience, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._clock = clock
        self._heard = clock()

    def heard(self) -> None:
        """The worker has made progress, or only now has something to do."""
        self._heard = self._clock()

    def left(self, turn_seconds: float | None) -> float:
        """Seconds of patience left with a worker whose turn should take ``turn_seconds``.

        ``None`` is for one that is starting.
        """
        allowed = self._patience.starting
        if turn_seconds is not None:
            allowed = max(self._patience.working, _TIMES_THE_PREDICTION * turn_seconds)
        return self._heard + allowed - self._clock()
