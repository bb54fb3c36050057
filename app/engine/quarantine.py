"""What has ended workers is not taken again for a while."""

from collections.abc import Callable

SECONDS = 600.0


class Quarantine:
    """Fingerprints that are refused, each for :data:`SECONDS`; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def add(self, fingerprint: bytes) -> None:
        """Refuse it from now on, for a while."""
        self._until[fingerprint] = self._clock() + SECONDS

    def left(self, fingerprint: bytes) -> float:
        """Seconds for which it is still refused; 0 if it is not."""
        now = self._clock()
        self._until = {known: end for known, end in self._until.items() if end > now}
        return self._until.get(fingerprint, now) - now
