"""Pictures that are told by their address: kept in memory for a while, within bounds."""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from app.errors import InvalidParameter

_SECRET_BYTES = 24


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture's file, of a ``caller``, kept until ``expires`` (by the store's clock)."""

    file: bytes
    media_type: str
    caller: str
    expires: float


class PictureStore:
    """Files by names that nobody can guess, each for ``seconds``, at most ``most_bytes`` in all.

    Where there is no room the oldest goes of whoever has the most there, so that no caller can
    push out what belongs to others.
    """

    def __init__(
        self, most_bytes: int, seconds: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._pictures: dict[str, StoredPicture] = {}
        self._bytes: Counter[str] = Counter()
        """By caller."""

    def put(self, files: Sequence[bytes], media_type: str, caller: str) -> list[str]:
        """Keep the files of one answer; gives their names.

        Raises :class:`InvalidParameter` where they would not all fit, even alone.
        """
        size = sum(map(len, files))
        if size > self._most_bytes:
            raise InvalidParameter(
                f"The pictures have {size:,} bytes, and at most {self._most_bytes:,} are kept for "
                "URLs; response_format can be b64_json",
                field="response_format",
            )
        names = [self._add(file, media_type, caller) for file in files]
        self._expire()
        while self._bytes.total() > self._most_bytes:
            [(greediest, _)] = self._bytes.most_common(1)
            mine = (name for name, one in self._pictures.items() if one.caller == greediest)
            self._remove(next(mine))
        return names

    def get(self, name: str) -> tuple[StoredPicture, float] | None:
        """The picture and the seconds for which it is still kept, unless there is none any more."""
        self._expire()
        picture = self._pictures.get(name)
        return (picture, picture.expires - self._clock()) if picture else None

    def _add(self, file: bytes, media_type: str, caller: str) -> str:
        name = secrets.token_urlsafe(_SECRET_BYTES)
        expires = self._clock() + self._seconds
        self._pictures[name] = StoredPicture(file, media_type, caller, expires)
        self._bytes[caller] += len(file)
        return name

    def _expire(self) -> None:
        """Drop what is too old: the first ones, since all are kept for the same time."""
        now = self._clock()
        while self._pictures and next(iter(self._pictures.values())).expires <= now:
            self._remove(next(iter(self._pictures)))

    def _remove(self, name: str) -> None:
        picture = self._pictures.pop(name)
        self._bytes[picture.caller] -= len(picture.file)
        if not self._bytes[picture.caller]:
            del self._bytes[picture.caller]
