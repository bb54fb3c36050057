"""The limiter: how many requests are accepted and how many uploads arrive, in all and by caller."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from random import Random, SystemRandom
from time import monotonic

from app.errors import QueueFull, QuotaExceeded, ShareExceeded, TooManyUploads

UNKNOWN_SECONDS = 1.0
"""To the first finish where none can be predicted, since nothing is known of any request yet."""

WRITING_SECONDS = 0.1
"""From a request's last picture to the end of its answer: the files are written and sent."""

JITTER = 1.25
"""A ``Retry-After`` is up to so many times the prediction, so that callers come back apart."""

ACTIVE_SECONDS = 60.0
"""After its last request a caller counts for so long among those that share the places."""

TURN_SECONDS = 5.0
"""A place waits so much longer than the ``Retry-After`` for the caller whose turn it is."""

UPLOADS_PER_PLACE, LEAST_UPLOADS = 3, 32
"""Most uploads that arrive at once, for each place, and where there are few places."""


class Limiter:
    """Bounds the requests whose forms are arriving, and those accepted but not yet answered.

    An accepted request has one of ``limit`` places. A caller, by the name of its API key, has at
    most ``quota`` of them; ``None`` stands for an even share among the callers of late. Where too
    few are free, a caller that holds none goes before those that do, in the order in which they
    were refused. An upload takes no place until it is whole; of uploads a caller has at most as
    many as are free, so that there is always room for one of another.

    ``finishes`` gives the seconds until each submitted request will be finished, by its id. A
    refusal's ``Retry-After`` is the predicted time until there is room, with a random part.
    """

    def __init__(
        self,
        limit: int,
        quota: int | None,
        finishes: Callable[[], Mapping[str, float]],
        random: Random | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.most_uploads = max(LEAST_UPLOADS, UPLOADS_PER_PLACE * limit)
        self._limit = limit
        self._quota = quota
        self._finishes = finishes
        self._random = random or SystemRandom()
        self._clock = clock
        self._uploads: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._expected: dict[str, float] = {}
        """Moments at which requests that have a place should be finished."""
        self._kept: set[str] = set()
        """Requests whose places outlast the contexts in which they were admitted."""
        self._seen: dict[str, float] = {}
        self._turns: dict[str, float] = {}
        """Callers without a place that were refused one, and until when their turn is kept."""

    @property
    def taken(self) -> int:
        """Requests that are to be answered: accepted, or arriving."""
        return len(self._places) + len(self._uploads)

    @property
    def uploads(self) -> int:
        """Requests whose forms are arriving."""
        return len(self._uploads)

    @contextmanager
    def admit(self, request_id: str, caller: str, *, is_repeat: bool = False) -> Iterator[None]:
        """Count a request as an upload, and once it is accepted as that, while the context lasts.

        Raises what :meth:`accept` would raise now, unless it repeats one that has a place, and
        :class:`TooManyUploads`.
        """
        if not is_repeat:
            self._check_place(caller)
        own = sum(owner == caller for owner in self._uploads.values())
        if own >= self.most_uploads - len(self._uploads):
            raise TooManyUploads(
                f"{own} uploads of this caller are arriving, as many as it may have now; ask again "
                "after Retry-After seconds",
                retry_after=self._spread(UNKNOWN_SECONDS),
            )
        self._uploads[request_id] = caller
        try:
            yield
        finally:
            if request_id not in self._kept:
                self._release(request_id)

    def accept(self, request_id: str) -> None:
        """An admitted request's form is whole: give it a place.

        Raises :class:`QueueFull`, :class:`QuotaExceeded` or :class:`ShareExceeded`.
        """
        caller = self._uploads[request_id]
        self._check_place(caller)
        self._places[request_id] = self._uploads.pop(request_id)
        self._turns.pop(caller, None)

    def arrived(self, request_id: str) -> None:
        """The form is whole of a request that repeats another one, and needs no place."""
        del self._uploads[request_id]

    def keep(self, request_id: str, caller: str) -> None:
        """A request has a place, whatever else there is, until it is given back."""
        self._kept.add(request_id)
        self._places[request_id] = caller

    def give_back(self, request_id: str) -> None:
        """The place of a request that had kept it is free."""
        self._kept.discard(request_id)
        self._release(request_id)

    def expect(self, request_id: str, seconds: float) -> None:
        """An accepted request, not submitted yet, should be finished in so many seconds."""
        self._expected[request_id] = self._clock() + seconds

    def _release(self, request_id: str) -> None:
        for table in (self._uploads, self._places, self._expected):
            table.pop(request_id, None)

    def _check_place(self, caller: str) -> None:
        self._seen[caller] = now = self._clock()
        own = [name for name, owner in self._places.items() if owner == caller]
        most = self._quota or self._share(now)
        if len(own) >= most:
            refusal = QuotaExceeded if self._quota else ShareExceeded
            raise refusal(
                f"{len(own)} requests of this API key are waiting or being made, and {most} are as "
                "many as one key may have now; ask again after Retry-After seconds",
                retry_after=self._retry_after(own, len(own) - most),
            )
        free = self._limit - len(self._places)
        before = self._turns_before(caller, now) if not own else len(self._waiting(now))
        if free <= before:
            retry_after = self._retry_after(self._places, before - free)
            if not own:
                self._turns[caller] = now + retry_after + TURN_SECONDS
            raise QueueFull(
                f"The queue is full: {len(self._places)} requests are waiting or being made, and "
                f"{before} callers without any come first; ask again after Retry-After seconds"
                if before
                else f"The queue is full: {len(self._places)} requests are waiting or being made; "
                "ask again after Retry-After seconds",
                retry_after=retry_after,
            )

    def _share(self, now: float) -> int:
        """Places of each caller that is active; a lone one may have all, up to a full queue."""
        lately = {name for name, seen in self._seen.items() if now <= seen + ACTIVE_SECONDS}
        active = lately.union(self._places.values(), self._uploads.values())
        return max(1, self._limit // len(active)) if len(active) > 1 else self._limit + 1

    def _waiting(self, now: float) -> list[str]:
        """The callers whose turn is kept, the one that has waited longest first."""
        self._turns = {name: until for name, until in self._turns.items() if now <= until}
        return list(self._turns)

    def _turns_before(self, caller: str, now: float) -> int:
        waiting = self._waiting(now)
        return waiting.index(caller) if caller in waiting else len(waiting)

    def _retry_after(self, request_ids: Iterable[str], others: int) -> float:
        """Seconds until ``others`` and one more of these requests should have been answered."""
        finishes, now = self._finishes(), self._clock()
        known = sorted(
            finishes[name] if name in finishes else max(0.0, self._expected[name] - now)
            for name in request_ids
            if name in finishes or name in self._expected
        )
        seconds = known[min(others, len(known) - 1)] if known else UNKNOWN_SECONDS
        return self._spread(seconds + WRITING_SECONDS)

    def _spread(self, seconds: float) -> float:
        return seconds * self._random.uniform(1, JITTER)
