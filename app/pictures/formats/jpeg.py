"""JPEG: segments that a marker begins, the picture's scans among them (ITU-T T.81, annex B)."""

import re
import struct
from typing import Final

from app.errors import TooLarge
from app.parameters import Size
from app.pictures.formats import exif
from app.pictures.formats.contents import FIELD, Contents, Damaged, PartCounter

SIGNATURE: Final = b"\xff\xd8\xff"

MAX_SCANS: Final = 64
"""Of a progressive picture. Each costs a walk over all of its pixels; usual are 10."""

MAX_SEQUENTIAL_SCANS: Final = 4
"""Of a picture that is not progressive: one for each of its colours."""

_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDD))
_JFIF, _EXIF, _PROFILE, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_JFIF_BYTES = 16
_PROFILE_PREFIX = b"ICC_PROFILE\0"
_START_OF_SCAN, _END = 0xDA, 0xD9
_END_MARK: Final = bytes((0xFF, _END))
_SCAN_MARK: Final = bytes((0xFF, _START_OF_SCAN))
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a segment."""

# In a scan a byte 0xFF is followed by 0, or by the number of a restart; else a marker begins.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class _Header:
    """The segments before the first scan, those without pixels left out."""

    def __init__(self) -> None:
        self.kept: list[bytes] = [SIGNATURE[:2]]
        self.size: Size | None = None
        self.orientation: int | None = None
        self._profile: dict[int, bytes] = {}

    @property
    def profile(self) -> bytes:
        """The parts of the ICC profile, which come in any order, put together (ICC.1:2022, B.4)."""
        return b"".join(part for _, part in sorted(self._profile.items()))

    def add(self, marker: int, segment: bytes) -> None:
        """Take in one segment, which begins with its length."""
        if marker in _FRAMES:
            self._add_size(segment)
        if marker == _EXIF and self.orientation is None and segment[2:].startswith(exif.PREFIX):
            self.orientation = exif.orientation(segment[2:])
        if marker == _PROFILE and segment[2:].startswith(_PROFILE_PREFIX) and len(segment) > 16:
            self._profile[segment[14]] = segment[16:]
        if marker in _FRAMES or marker in _TABLES or _tells_colours(marker, segment):
            self.kept.append(bytes((0xFF, marker)) + segment)

    def _add_size(self, segment: bytes) -> None:
        if self.size is not None:
            raise Damaged("it has two frames")
        height, width = struct.unpack_from(">HH", segment, 3)
        self.size = (width, height)


def read(data: bytes) -> Contents:
    """Comments and thumbnails are left out; what follows the picture is never read."""
    header = _Header()
    scans = _read_header(data, header)
    if header.size is None:
        raise Damaged("there is no frame before the first scan")
    _check_scans(data, scans)
    header.kept.append(data[scans:])
    end_missing = data.find(_END_MARK, scans) < 0
    if end_missing:
        header.kept.append(_END_MARK)
    return Contents(
        header.size,
        b"".join(header.kept),
        header.orientation or 1,
        profile=header.profile,
        end_missing=end_missing,
    )


def is_sequential(data: bytes, parts: PartCounter) -> bool:
    """True where every scan is of other colours, so that each pixel is gone over once.

    Raises :class:`Damaged` where there is no scan; ``parts`` counts the segments before it.
    """
    position, marker = 2, 0
    while marker != _START_OF_SCAN:
        parts.add()
        marker, position = _next_marker(_MARKER, data, position)
        if marker in _PROGRESSIVE:
            return False
        if marker not in _ALONE and marker != _START_OF_SCAN:
            position = _segment_end(data, position)
    return data.count(_SCAN_MARK, position) < MAX_SEQUENTIAL_SCANS


def _read_header(data: bytes, header: _Header) -> int:
    """Fill in the header; gives where the first scan begins."""
    position, parts = 2, PartCounter()
    while True:
        parts.add()
        marker, position = _next_marker(_MARKER, data, position)
        if marker == _START_OF_SCAN:
            return position - 2
        if marker not in _ALONE:
            end = _segment_end(data, position)
            header.add(marker, data[position:end])
            position = end


def _check_scans(data: bytes, position: int) -> None:
    if data.count(_SCAN_MARK, position) <= MAX_SCANS:
        return  # even if all of these are scans and not, say, a film behind the picture
    scans, parts, marker = 0, PartCounter(), 0
    while True:
        parts.add()
        pattern = _MARKER_AFTER_SCAN if marker == _START_OF_SCAN else _MARKER
        marker, position = _next_marker(pattern, data, position)
        if marker == _END:
            return
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise TooLarge(
                f"The JPEG has more than {MAX_SCANS} scans; save it anew, not progressive",
                field=FIELD,
            )
        if marker not in _ALONE:
            position = _segment_end(data, position)


def _next_marker(pattern: re.Pattern[bytes], data: bytes, position: int) -> tuple[int, int]:
    """The next marker, and where what follows it begins."""
    found = pattern.search(data, position)
    if found is None:
        raise Damaged("it ends before the end of the picture")
    return data[found.end() - 1], found.end()


def _segment_end(data: bytes, position: int) -> int:
    (length,) = struct.unpack_from(">H", data, position)
    return position + max(2, int(length))


def _tells_colours(marker: int, segment: bytes) -> bool:
    whole = len(segment) >= _JFIF_BYTES  # decoders pass over a shorter one, Pillow stumbles
    return (marker == _JFIF and segment[2:7] == b"JFIF\0" and whole) or (
        marker == _ADOBE and segment[2:7] == b"Adobe"
    )
