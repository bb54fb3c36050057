"""How many rows fit in the device's memory: falls when it runs out, and rises slowly again."""

from app.engine.batcher import Batcher
from app.engine.knee import SMALLEST_CAP

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
