"""TIFF: directories of tags, anywhere in the file (TIFF 6.0, section 2; BigTIFF alike)."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from app.errors import FormatNotAllowed, TooLarge
from app.parameters import Size
from app.pictures.formats.contents import FIELD, MAX_PARTS, Contents, Damaged, PartCounter
from app.pictures.formats.exif import upright_if_odd

SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _COMPRESSION, _ORIENTATION, _PROFILE = 256, 257, 259, 274, 34675
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_NUMBERS = (_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT)

# From bits per sample to the strips, the palette, the tiles and how YCbCr is meant; no
# resolution, no other directory, no metadata.
_OF_THE_PICTURE = frozenset(
    (
        *_NUMBERS,
        *(258, 262, 266, 273, 277, 278, 279, 284, 317, 320, 324, 325),
        *(332, 338, 339, 347, 529, 530, 531, 532),
    )
)

_COMPRESSIONS = frozenset((1, 5, 7, 8, 32773, 32946))
"""None, LZW, JPEG, Deflate's two numbers and PackBits. CCITT's three are for faxes: nobody keeps
pictures in them, and libtiff reads on past what is broken, with an error for every line."""

_SHORT, _UNDEFINED = 3, 7
_INTEGERS = {_SHORT: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class _Layout:
    """The form of directories, in struct's codes; the first one's offset lies at ``first``."""

    order: str
    offset: str
    count: str
    entry: str
    first: int
    header_bytes: int

    @classmethod
    def of(cls, data: bytes) -> "_Layout":
        order = "<" if data[:2] == b"II" else ">"
        if b"+" in data[2:4]:
            return cls(order, f"{order}Q", f"{order}Q", f"{order}HHQ8s", 8, 16)
        return cls(order, f"{order}I", f"{order}H", f"{order}HHI4s", 4, 8)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tag; ``value`` holds the numbers themselves, or where they are."""

    tag: int
    kind: int
    count: int
    value: bytes

    def integer(self, order: str) -> int:
        if self.count != 1 or self.kind not in _INTEGERS:
            raise Damaged(f"tag {self.tag} is not one whole number")
        (value,) = struct.unpack_from(order + _INTEGERS[self.kind], self.value)
        return int(value)


def read(data: bytes) -> Contents:
    """The first directory is cut down to the tags that tell about pixels; no other is read."""
    layout = _Layout.of(data)
    (start,) = struct.unpack_from(layout.offset, data, layout.first)
    if start < layout.header_bytes:
        raise Damaged("its directory lies over its header")
    entries, end = _directory(data, layout, start)
    numbers = {tag: entries[tag].integer(layout.order) for tag in _NUMBERS if tag in entries}
    _check_compression(numbers.get(_COMPRESSION, 1))
    kept = [entry for tag, entry in entries.items() if tag in _OF_THE_PICTURE]
    return Contents(
        size=(numbers[_WIDTH], numbers[_HEIGHT]),
        data=data[:start] + _written(kept, layout, end - start) + data[end:],
        orientation=_orientation(entries, layout.order),
        tile=_tile(numbers),
        profile=_profile(data, layout, entries.get(_PROFILE)),
    )


def _directory(data: bytes, layout: _Layout, start: int) -> tuple[Mapping[int, _Entry], int]:
    """The first entry of every tag, and where the directory ends."""
    (count,) = struct.unpack_from(layout.count, data, start)
    position = start + struct.calcsize(layout.count)
    entries: dict[int, _Entry] = {}
    for entry in _entries(data, layout, position, count):
        entries.setdefault(entry.tag, entry)
    end = position + count * struct.calcsize(layout.entry) + struct.calcsize(layout.offset)
    if end > len(data):
        raise Damaged("it ends before its directory does")
    return entries, end


def _entries(data: bytes, layout: _Layout, position: int, count: int) -> Iterator[_Entry]:
    parts = PartCounter()
    for index in range(count):
        parts.add()
        place = position + index * struct.calcsize(layout.entry)
        entry = _Entry(*struct.unpack_from(layout.entry, data, place))
        if entry.tag in _OF_THE_PICTURE and entry.count > MAX_PARTS:
            raise TooLarge(
                f"The TIFF's tag {entry.tag} holds more than {MAX_PARTS:,} numbers; save the "
                "picture in larger strips or tiles",
                field=FIELD,
            )
        yield entry


def _written(entries: Iterable[_Entry], layout: _Layout, length: int) -> bytes:
    """A directory of these entries, the last of its file, where one of ``length`` bytes was."""
    packed = [struct.pack(layout.entry, one.tag, one.kind, one.count, one.value) for one in entries]
    return (struct.pack(layout.count, len(packed)) + b"".join(packed)).ljust(length, b"\0")


def _check_compression(number: int) -> None:
    if number not in _COMPRESSIONS:
        raise FormatNotAllowed(
            f"TIFF files of compression {number} are not accepted; save it with LZW, Deflate, "
            "JPEG or no compression",
            field=FIELD,
        )


def _orientation(entries: Mapping[int, _Entry], order: str) -> int:
    entry = entries.get(_ORIENTATION)
    if entry is None or (entry.kind, entry.count) != (_SHORT, 1):
        return 1
    return upright_if_odd(entry.integer(order))


def _profile(data: bytes, layout: _Layout, entry: _Entry | None) -> bytes:
    """The profile lies elsewhere in the file: it is larger than an entry's value."""
    if entry is None or entry.kind != _UNDEFINED:
        return b""
    (start,) = struct.unpack_from(layout.offset, entry.value)
    return data[start : start + entry.count]


def _tile(numbers: Mapping[int, int]) -> Size | None:
    if _TILE_WIDTH not in numbers or _TILE_HEIGHT not in numbers:
        return None
    return numbers[_TILE_WIDTH], numbers[_TILE_HEIGHT]
