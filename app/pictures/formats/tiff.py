"""TIFF: directories of tags, anywhere in the file (TIFF 6.0, section 2; BigTIFF alike)."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from app.errors import FormatNotAllowed, TooLarge
from app.pictures.formats import jpeg
from app.pictures.formats.contents import FIELD, MAX_PARTS, Contents, Damaged, PartCounter
from app.pictures.formats.exif import upright_if_odd

SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _PLANAR, _COLOUR_MAP, _EXTRA, _FORMAT = 274, 277, 284, 320, 338, 339
_TILE_WIDTH, _TILE_HEIGHT, _SUBSAMPLING, _PROFILE = 322, 323, 530, 34675
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325

_DEFAULTS: Final = {
    _BITS: (1,),
    _COMPRESSION: (1,),
    _PHOTOMETRIC: (0,),
    _FILL_ORDER: (1,),
    _SAMPLES: (1,),
    _PLANAR: (1,),
    _EXTRA: (),
    _FORMAT: (1,),
    _SUBSAMPLING: (2, 2),
}
"""Tags that say of what kind the picture is, and what a file means that leaves them out."""

# From bits per sample to the strips, the palette, the tiles and how YCbCr is meant; no
# resolution, no other directory, no metadata.
_OF_THE_PICTURE = frozenset(
    (
        *(_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT, _COLOUR_MAP, *_DEFAULTS),
        *(_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, 278, 317, 332, 347, 529, 531, 532),
    )
)

_ENOUGH = 8
"""Numbers that a tag of :data:`_DEFAULTS` may hold: of no accepted kind there are more."""

_GREY_FROM_WHITE, _GREY, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_NO_ALPHA: Final = ((),)
_ALPHA: Final = ((), (0,), (1,), (2,))  # ignored, multiplied into the colours, plain

_KINDS: Final[dict[int, tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]]] = {
    _GREY_FROM_WHITE: (1, (1, 2, 4, 8), _NO_ALPHA),
    _GREY: (1, (1, 2, 4, 8, 16), ((), (1,), (2,))),
    _RGB: (3, (8, 16), _ALPHA),
    _PALETTE: (1, (1, 2, 4, 8), _NO_ALPHA),
    _CMYK: (4, (8, 16), _NO_ALPHA),
    _YCBCR: (3, (8,), _NO_ALPHA),
    _LAB: (3, (8,), _NO_ALPHA),
}
"""What Pillow is proven to decode rightly: samples of a colour, their bits, further samples."""

_RAW, _JPEG = 1, 7
_COMPRESSIONS = frozenset((_RAW, 5, _JPEG, 8, 32773, 32946))
"""None, LZW, JPEG, Deflate's two numbers and PackBits."""

_NAMES: Final = {
    _PHOTOMETRIC: {
        4: "masks",
        9: "ICC Lab",
        10: "ITU Lab",
        32803: "a camera's raw colour filter",
        32844: "LogL",
        32845: "LogLuv",
        34892: "a camera's raw colours",
    },
    _COMPRESSION: {
        **dict.fromkeys((2, 3, 4), "CCITT (fax) compression"),
        6: "old JPEG compression",
        34661: "JBIG compression",
        34712: "JPEG 2000 compression",
        34925: "LZMA compression",
        50000: "Zstandard compression",
        50001: "WebP compression",
    },
    _FORMAT: {2: "signed numbers", 3: "floating-point numbers", 4: "numbers of no stated kind"},
}

_SHORT, _UNDEFINED = 3, 7
_INTEGERS = {_SHORT: "H", 4: "I", 16: "Q"}


Kind = Mapping[int, tuple[int, ...]]
"""The numbers of each tag of :data:`_DEFAULTS`."""


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

    def integers(self, data: bytes, layout: _Layout, most: int) -> tuple[int, ...]:
        """The numbers, wherever they are; at most so many of them."""
        if self.kind not in _INTEGERS:
            raise Damaged(f"tag {self.tag} is not of whole numbers")
        code = f"{layout.order}{min(self.count, most)}{_INTEGERS[self.kind]}"
        if self.count * struct.calcsize(_INTEGERS[self.kind]) <= len(self.value):
            return struct.unpack_from(code, self.value)
        (place,) = struct.unpack_from(layout.offset, self.value)
        return struct.unpack_from(code, data, place)

    def integer(self, data: bytes, layout: _Layout) -> int:
        if self.count != 1:
            raise Damaged(f"tag {self.tag} is not one number")
        return self.integers(data, layout, 1)[0]


def read(data: bytes) -> Contents:
    """The first directory is cut down to the tags that tell about pixels; no other is read."""
    layout = _Layout.of(data)
    (start,) = struct.unpack_from(layout.offset, data, layout.first)
    if start < layout.header_bytes:
        raise Damaged("its directory lies over its header")
    entries, end = _directory(data, layout, start)
    sides = {
        tag: entries[tag].integer(data, layout)
        for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)
        if tag in entries
    }
    kind = dict(_DEFAULTS) | {
        tag: entries[tag].integers(data, layout, _ENOUGH) for tag in _DEFAULTS if tag in entries
    }
    refusal = (
        _refusal_of_numbers(kind)
        or _refusal_of_samples(kind)
        or _refusal_of_layout(kind)
        or _refusal_of_colours(data, layout, entries, kind)
        or _refusal_of_jpegs(data, layout, entries, kind)
    )
    if refusal:
        raise FormatNotAllowed(
            f"TIFF files {refusal} are not accepted; save it as RGB of 8 bits, with LZW, Deflate "
            "or no compression, or as PNG",
            field=FIELD,
        )
    needless = {_PLANAR} if kind[_SAMPLES] == (1,) else set()  # and Pillow is misled by it
    kept = [one for tag, one in entries.items() if tag in _OF_THE_PICTURE - needless]
    return Contents(
        size=(sides[_WIDTH], sides[_HEIGHT]),
        data=data[:start] + _written(kept, layout, end - start) + data[end:],
        orientation=_orientation(data, layout, entries.get(_ORIENTATION)),
        tile=(sides[_TILE_WIDTH], sides[_TILE_HEIGHT]) if _TILE_HEIGHT in sides else None,
        profile=_profile(data, layout, entries.get(_PROFILE)),
    )


def _refusal_of_numbers(kind: Kind) -> str | None:
    """The compression, colours or numbers for which it is refused, if it is."""
    (photometric, *_), (compression, *_) = kind[_PHOTOMETRIC], kind[_COMPRESSION]
    formats = [one for one in kind[_FORMAT] if one != 1]
    if compression not in _COMPRESSIONS:
        return f"with {_NAMES[_COMPRESSION].get(compression, f'compression {compression}')}"
    if photometric not in _KINDS:
        return f"of {_NAMES[_PHOTOMETRIC].get(photometric, f'colours of kind {photometric}')}"
    if formats:
        return f"of {_NAMES[_FORMAT].get(formats[0], 'unusual numbers')}"
    return None


def _refusal_of_samples(kind: Kind) -> str | None:
    """The samples of a pixel for which it is refused, if it is: their bits and their number."""
    bits, samples, extra = set(kind[_BITS]), kind[_SAMPLES][0], kind[_EXTRA]
    colours, known_bits, known_extra = _KINDS[kind[_PHOTOMETRIC][0]]
    if len(bits) != 1 or not bits <= set(known_bits):
        return f"of {' and '.join(map(str, sorted(bits)))} bits a sample in such colours"
    grey_with_alpha_is_deep = colours == 1 and extra and bits != {8}
    if extra not in known_extra or samples != colours + len(extra) or grey_with_alpha_is_deep:
        return f"of {samples} samples of {min(bits)} bits a pixel in such colours"
    return None


def _refusal_of_layout(kind: Kind) -> str | None:
    """The order in which the samples stand for which it is refused, if it is."""
    (photometric, *_), (compression, *_) = kind[_PHOTOMETRIC], kind[_COMPRESSION]
    plain = set(kind[_BITS]) == {8} and not kind[_EXTRA]
    if kind[_FILL_ORDER][0] != 1:
        return "whose bits stand in reverse"
    if kind[_PLANAR][0] != 1 and kind[_SAMPLES][0] > 1 and not (plain and photometric == _RGB):
        return "whose colours lie apart"
    if compression == _JPEG and not (plain and photometric in (_GREY, _RGB, _YCBCR)):
        return "of such colours with JPEG compression"
    if (photometric, compression) == (_YCBCR, _RAW) and kind[_SUBSAMPLING] != (1, 1):
        return "of thinned-out colours without compression"
    return None


def _refusal_of_colours(
    data: bytes,
    layout: _Layout,
    entries: Mapping[int, _Entry],
    kind: Kind,
) -> str | None:
    """Colour maps have 16 bits; some programs write 8, which would come out black."""
    if kind[_PHOTOMETRIC][0] != _PALETTE:
        return None
    count = 3 << kind[_BITS][0]
    colours = entries[_COLOUR_MAP].integers(data, layout, count)
    if len(colours) != count:
        raise Damaged("its colour map has another length")
    return "with a colour map of 8 bits" if max(colours) < 256 else None


def _refusal_of_jpegs(
    data: bytes,
    layout: _Layout,
    entries: Mapping[int, _Entry],
    kind: Kind,
) -> str | None:
    """A short file may have thousands of strips or tiles, all in the same place.

    Only where each scan goes over pixels of its own does their number say what they cost.
    """
    if kind[_COMPRESSION][0] != _JPEG:
        return None
    places, sizes = (_TILES, _TILE_BYTES) if _TILES in entries else (_STRIPS, _STRIP_BYTES)
    starts, lengths = (entries[tag].integers(data, layout, MAX_PARTS) for tag in (places, sizes))
    pieces = set(zip(starts, lengths, strict=True))
    if sum(length for _, length in pieces) > len(data):
        raise Damaged("its pieces lie over each other")
    parts = PartCounter()
    if all(jpeg.is_sequential(data[start : start + length], parts) for start, length in pieces):
        return None
    return "with progressive JPEG compression"


def _directory(data: bytes, layout: _Layout, start: int) -> tuple[Mapping[int, _Entry], int]:
    """The first entry of every tag, and where the directory ends."""
    (count,) = struct.unpack_from(layout.count, data, start)
    position = start + struct.calcsize(layout.count)
    entries: dict[int, _Entry] = {}
    for entry in _entries(data, layout, position, count):
        entries.setdefault(entry.tag, entry)
    # Behind it is the offset of the next, which a file of one picture may lack.
    end = position + count * struct.calcsize(layout.entry) + struct.calcsize(layout.offset)
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


def _orientation(data: bytes, layout: _Layout, entry: _Entry | None) -> int:
    if entry is None or (entry.kind, entry.count) != (_SHORT, 1):
        return 1
    return upright_if_odd(entry.integer(data, layout))


def _profile(data: bytes, layout: _Layout, entry: _Entry | None) -> bytes:
    """The profile lies elsewhere in the file: it is larger than an entry's value."""
    if entry is None or entry.kind != _UNDEFINED:
        return b""
    (start,) = struct.unpack_from(layout.offset, entry.value)
    return data[start : start + entry.count]
