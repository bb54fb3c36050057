"""PNG: a signature, then chunks of length, kind, data and checksum (PNG specification, 5)."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from app.pictures.colour import MAX_PROFILE_BYTES
from app.pictures.formats.contents import Contents, Damaged, PartCounter
from app.pictures.formats.exif import orientation

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_OF_THE_PICTURE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))


def read(data: bytes) -> Contents:
    """Texts and the further frames of an animation are left out."""
    kept = [SIGNATURE]
    upright, profile = 1, b""
    for kind, start, end in _chunks(data):
        if kind in _OF_THE_PICTURE:
            kept.append(data[start:end])
        elif kind == b"eXIf":
            upright = orientation(data[start + 8 : end - 4])
        elif kind == b"iCCP":
            profile = _unpacked(data[start + 8 : end - 4])
    return Contents(_size(data), b"".join(kept), upright, profile=profile)


def _unpacked(chunk: bytes) -> bytes:
    """The profile behind its name and the method of compression; one byte more than allowed."""
    _, _, compressed = chunk.partition(b"\0")
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(compressed[1:], MAX_PROFILE_BYTES + 1)
    return b""


def _size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise Damaged("the first chunk is not the header")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk up to the last."""
    position, parts, kind = len(SIGNATURE), PartCounter(), b""
    while kind != b"IEND" and position < len(data):
        parts.add()
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        yield kind, position, end
        position = end
