"""WebP: a RIFF file whose chunks hold the picture, or the frames (RFC 9649, section 2)."""

import struct
from collections.abc import Iterator
from typing import Final

from app.parameters import Size
from app.pictures.formats import exif
from app.pictures.formats.contents import Contents, Damaged, PartCounter

SIGNATURE: Final = b"RIFF"

_CANVAS = b"VP8X"
_BEFORE_THE_PICTURE = frozenset((_CANVAS, b"ANIM", b"ALPH"))
_PICTURES = frozenset((b"VP8 ", b"VP8L", b"ANMF"))


def read(data: bytes) -> Contents:
    """The further frames of an animation are left out."""
    if data[8:12] != b"WEBP":
        raise Damaged("it is another kind of RIFF file")
    kept: list[bytes] = []
    upright, found, profile = 1, False, b""
    for kind, start, end in _chunks(data):
        if not found and (kind in _BEFORE_THE_PICTURE or kind in _PICTURES):
            kept.append(data[start:end])
            found = kind in _PICTURES
        elif kind == b"EXIF":
            upright = exif.orientation(data[start + 8 : end])
        elif kind == b"ICCP":
            profile = data[start + 8 : end]
    body = b"WEBP" + b"".join(kept)
    head = SIGNATURE + struct.pack("<I", len(body))
    return Contents(_size(kept[0]), head + body, upright, profile=profile)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk, padding included."""
    position, parts = 12, PartCounter()
    while position + 8 <= len(data):
        parts.add()
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        yield kind, position, end
        position = end


def _size(chunk: bytes) -> Size:
    """Width and height from the first chunk."""
    kind, body = chunk[:4], chunk[8:]
    if kind == _CANVAS:
        return _little(body[4:7]) + 1, _little(body[7:10]) + 1
    if kind == b"VP8L":
        bits = _little(body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF
    raise Damaged("neither a canvas nor a picture comes first")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
