"""The result of taking a file apart, and limits that all formats share."""

from dataclasses import dataclass
from typing import Final

from app.errors import TooLarge
from app.parameters import Size

FIELD: Final = "image"
"""The form field that an upload comes in."""

MAX_PARTS: Final = 65_536
"""Chunks, segments, blocks or strips of one file. Files of the largest size that the defaults
accept have a few thousand."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The first picture of a file, as a file of its own; what has no pixels in it is left out.

    ``tile`` is the size of the pieces it is stored in, where a piece may be larger than the whole.
    ``orientation`` is EXIF's, 1–8. ``profile`` is the ICC profile of its colours, unread. With
    ``end_missing`` the file did not say where it ends: its mark has been put there, two bytes.
    """

    size: Size
    data: bytes
    orientation: int = 1
    tile: Size | None = None
    profile: bytes = b""
    end_missing: bool = False


class Damaged(ValueError):
    """The file contradicts itself or ends too early."""


class PartCounter:
    """Counts the parts of a file as they are met; raises :class:`TooLarge` past the limit."""

    def __init__(self) -> None:
        self._count = 0

    def add(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise TooLarge(
                f"The file consists of more than {MAX_PARTS:,} parts; save the picture anew, "
                "without metadata",
                field=FIELD,
            )
