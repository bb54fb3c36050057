"""A bound on the requests that are accepted and not yet answered."""

from types import TracebackType

from app.errors import QueueFull

RETRY_QUEUE_FULL = 5.0
"""Seconds after which to ask again; a guess until the finish is predicted."""


class Slots:
    """Counted from acceptance, before the body is read, so that uploads count as well.

    A context manager: entering takes a slot or raises :class:`QueueFull`, leaving frees it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self.limit:
            raise QueueFull(
                f"All {self.limit} places in the queue are taken; ask again a little later",
                retry_after=RETRY_QUEUE_FULL,
            )
        self.taken += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.taken -= 1
