"""The bounded queue, seen from its door: who gets a place, and when to come back for one."""

import math
import time
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from app.errors import QueueFull, QuotaExceeded

UNKNOWN_SECONDS = 1.0
"""Where no finish is foreseen, since those in the queue are still being uploaded."""

HELD_SECONDS = 0.5
"""A promised place is kept so long past its time, for the way back."""

AFTERWARDS_SECONDS = 0.1
"""From a request's last picture to its place being free: the files are written and sent."""

Finishes = Callable[[], Mapping[str, float]]
"""Seconds until each accepted request will be finished, by its id."""


class Slots:
    """Requests that are accepted and not yet answered, counted from before their body is read.

    Who finds the queue full is told when to come back, in whole seconds: clients read them from
    ``Retry-After``, and so come when they are expected. Then a place is kept for them: a newcomer
    gets one only if as many as were promised will be free all the same, each in its time.
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
        elif not self._is_free_for_a_newcomer(now, free):
            raise QueueFull(
                f"All {self.limit} places in the queue are taken, or promised; ask again soon",
                retry_after=self._promise(now) - now,
            )

    def _is_free_for_a_newcomer(self, now: float, free: int) -> bool:
        if free <= len(self._promised) and free > 0:
            ends = self._ends(now)
            freed = (bisect_right(ends, when) for when in self._promised)
            return all(free + more > promised for promised, more in enumerate(freed, start=1))
        return free > 0

    def _promise(self, now: float) -> float:
        """When the first place will be free, in whole seconds from now."""
        first = min(self._ends(now), default=now + UNKNOWN_SECONDS)
        when = now + max(1, math.ceil(first - now))
        insort(self._promised, when)
        return when

    def _ends(self, now: float) -> list[float]:
        """When places come free, as far as is foreseen."""
        return sorted(now + end + AFTERWARDS_SECONDS for end in self._finishes().values())
