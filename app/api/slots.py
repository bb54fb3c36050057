"""The bounded queue, seen from its door: who gets a place, and when to come back for one."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from app.errors import QueueFull, QuotaExceeded

UNKNOWN_SECONDS = 1.0
"""Where no finish is foreseen, since those in the queue are still being uploaded."""

HELD_SECONDS = 1.5
"""A promised place is kept so long past its time: ``Retry-After`` is in whole seconds."""

BAND_SECONDS, BAND_SHARE = 0.6, 0.2
"""How far past the first place to be free callers are spread, so that they do not collide."""

AFTERWARDS_SECONDS = 0.2
"""Seconds from a request's last picture to its place being free, and some for being wrong: who
comes back too late still finds the place that is kept, who comes too early finds none."""

Finishes = Callable[[], Mapping[str, float]]
"""Seconds until each accepted request will be finished, by its id."""


class Slots:
    """Requests that are accepted and not yet answered, counted from before their body is read.

    Who finds the queue full is told when a place will be free, and no two are told the same one as
    long as places follow closely. Such a place is then kept: a newcomer that finds it free does
    not get it before the one who was told to wait.
    """

    def __init__(
        self,
        limit: int,
        quota: int | None,
        finishes: Finishes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._quota = quota
        self._finishes = finishes
        self._clock = clock
        self._taken: dict[str, str] = {}
        self._promised: list[float] = []

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return len(self._taken)

    @contextmanager
    def place(self, request_id: str, caller: str) -> Iterator[None]:
        """Hold a place. Raises :class:`QueueFull` or :class:`QuotaExceeded` where there is none."""
        self._check_quota(caller)
        self._check_room()
        self._taken[request_id] = caller
        try:
            yield
        finally:
            del self._taken[request_id]

    def _check_quota(self, caller: str) -> None:
        if self._quota is None or Counter(self._taken.values())[caller] < self._quota:
            return
        own = {name for name, owner in self._taken.items() if owner == caller}
        ends = [end for name, end in self._finishes().items() if name in own]
        raise QuotaExceeded(
            f"This API key has {self._quota} requests under way, as many as it may; "
            "ask again when one is done",
            retry_after=min(ends, default=UNKNOWN_SECONDS) + AFTERWARDS_SECONDS,
        )

    def _check_room(self) -> None:
        now = self._clock()
        self._promised = [when for when in self._promised if when + HELD_SECONDS > now]
        free = self.limit - self.taken
        if 2 * free > self.limit:  # the rush is over: there is room for those who were told, too
            self._promised.clear()
        if free > 0 and self._promised and self._promised[0] <= now:
            del self._promised[0]
        elif free <= len(self._promised):
            raise QueueFull(
                f"All {self.limit} places in the queue are taken; ask again a little later",
                retry_after=self._promise(now, free) - now,
            )

    def _promise(self, now: float, free: int) -> float:
        """When the next place that is not promised yet will be free, or about then."""
        ends = sorted(now + end + AFTERWARDS_SECONDS for end in self._finishes().values())
        ends = [now] * free + (ends or [now + UNKNOWN_SECONDS])
        first = ends[0] - now
        latest = now + max(first * (1 + BAND_SHARE), first + BAND_SECONDS)
        when = min([*ends[len(self._promised) :], latest])
        self._promised = sorted([*self._promised, when])
        return when
