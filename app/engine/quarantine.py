"""What was running when workers ended is remembered for a while, whoever asks for it again."""

from collections.abc import Callable
from dataclasses import dataclass

from app.engine.generation import DEATHS_OF_A_SUSPECT

SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Record:
    deaths: int
    until: float

    @property
    def convicted(self) -> bool:
        return self.deaths > DEATHS_OF_A_SUSPECT


class Quarantine:
    """Deaths of workers by fingerprint, each for :data:`SECONDS`; ``clock`` is in seconds.

    A caller that goes away and asks again does not start from nothing, or one with less patience
    than it takes to end three workers could end them for ever.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[bytes, _Record] = {}

    def died(self, fingerprint: bytes, deaths: int) -> None:
        """Its like has now been running in so many deaths; after the third it is refused."""
        now = self._clock()
        self._records = {known: one for known, one in self._records.items() if one.until > now}
        deaths = max(deaths, self.deaths(fingerprint))
        self._records[fingerprint] = _Record(deaths, now + SECONDS)

    def deaths(self, fingerprint: bytes) -> int:
        """In how many deaths its like was running, none of it answered since."""
        record = self._records.get(fingerprint)
        return record.deaths if record and record.until > self._clock() else 0

    def forgive(self, fingerprint: bytes) -> None:
        """Its like has been answered: what it was running in it did not cause."""
        record = self._records.get(fingerprint)
        if record and not record.convicted:
            del self._records[fingerprint]

    def left(self, fingerprint: bytes) -> float:
        """Seconds for which it is still refused; 0 if it is not."""
        record = self._records.get(fingerprint)
        return max(0.0, record.until - self._clock()) if record and record.convicted else 0.0
