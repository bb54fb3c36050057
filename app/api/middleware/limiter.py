"""The limiter: how many requests are accepted, over all and of one API key."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from random import Random, SystemRandom

from app.errors import QueueFull, QuotaExceeded

UNKNOWN_SECONDS = 1.0
"""To the first finish where none can be predicted, since all requests are still uploading."""

WRITING_SECONDS = 0.1
"""From a request's last picture to the end of its answer: the files are written and sent."""

JITTER = 1.25
"""A ``Retry-After`` is up to so many times the prediction, so that callers come back apart."""


class Limiter:
    """Bounds the requests that are accepted and whose answers have not been taken yet.

    ``limit`` is for all of them, ``quota`` for those of one API key, ``None`` for no quota.
    ``finishes`` gives the seconds until each accepted request will be finished, by its id. A
    refusal's ``Retry-After`` is the predicted time to the first finish, with a random part.
    """

    def __init__(
        self,
        limit: int,
        quota: int | None,
        finishes: Callable[[], Mapping[str, float]],
        random: Random | None = None,
    ) -> None:
        self._limit = limit
        self._quota = quota
        self._finishes = finishes
        self._random = random or SystemRandom()
        self._callers: dict[str, str] = {}

    @property
    def taken(self) -> int:
        """Requests that are accepted now."""
        return len(self._callers)

    @contextmanager
    def admit(self, request_id: str, caller: str) -> Iterator[None]:
        """Count a request as accepted while the context lasts; ``caller`` is its API key's name.

        Raises :class:`QueueFull` or :class:`QuotaExceeded`.
        """
        own = [name for name, owner in self._callers.items() if owner == caller]
        if self._quota is not None and len(own) >= self._quota:
            raise QuotaExceeded(
                f"{self._quota} requests of this API key are waiting or being made, as many as one "
                "key may have; ask again after Retry-After seconds",
                retry_after=self._retry_after(own),
            )
        if self.taken >= self._limit:
            raise QueueFull(
                f"The queue is full: {self._limit} requests are waiting or being made; "
                "ask again after Retry-After seconds",
                retry_after=self._retry_after(self._callers),
            )
        self._callers[request_id] = caller
        try:
            yield
        finally:
            del self._callers[request_id]

    def _retry_after(self, request_ids: Iterable[str]) -> float:
        """Seconds until the first of these requests should have been answered, or a little more."""
        finishes = self._finishes()
        known = (finishes[name] for name in request_ids if name in finishes)
        seconds = min(known, default=UNKNOWN_SECONDS) + WRITING_SECONDS
        return seconds * self._random.uniform(1, JITTER)
