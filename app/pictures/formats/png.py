"""PNG: a signature, then chunks of length, kind, data and checksum (PNG specification, 5)."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from app.pictures.colour import MAX_PROFILE_BYTES
from app.pictures.formats.contents import Contents, Damaged, PartCounter
from app.pictures.formats.exif import orientation, xmp_orientation

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_OF_THE_PICTURE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))

_EXIF, _PROFILE, _TEXTS = b"eXIf", b"iCCP", (b"tEXt", b"zTXt", b"iTXt")
_EXIF_TEXTS = (b"Raw profile type exif", b"Raw profile type APP1")
_XMP_TEXT = b"XML:com.adobe.xmp"
_KEPT_TEXTS = (*_EXIF_TEXTS, _XMP_TEXT)
_MAX_TEXT_BYTES = 2**20


def read(data: bytes) -> Contents:
    """Texts and the further frames of an animation are left out."""
    kept = [SIGNATURE]
    told: dict[bytes, bytes] = {}  # by their kind or name, the first of each
    for kind, start, end in _chunks(data):
        chunk = memoryview(data)[start + 8 : max(start + 8, end - 4)]
        if kind in _OF_THE_PICTURE:
            kept.append(data[start:end])
        elif kind in (_EXIF, _PROFILE):
            told.setdefault(kind, kind + bytes(chunk))
        elif kind in _TEXTS and (name := bytes(chunk[:80]).partition(b"\0")[0]) in _KEPT_TEXTS:
            told.setdefault(name, kind + bytes(chunk))
    profile = _behind_name(told.get(_PROFILE, b""), MAX_PROFILE_BYTES)
    return Contents(_size(data), b"".join(kept), _orientation(told), profile=profile)


def _orientation(told: Mapping[bytes, bytes]) -> int:
    """From the EXIF chunk, else from what some programs write in its stead, a text of digits."""
    if _EXIF in told:
        return orientation(told[_EXIF][4:])
    for name in _EXIF_TEXTS:
        # A line with the kind, one with the length, then lines of hexadecimal digits.
        lines = _behind_name(told.get(name, b""), _MAX_TEXT_BYTES).split()
        with suppress(ValueError):
            if block := bytes.fromhex(b"".join(lines[2:]).decode("ascii")):
                return orientation(block)
    return xmp_orientation(_behind_name(told.get(_XMP_TEXT, b""), _MAX_TEXT_BYTES))


def _behind_name(chunk: bytes, most: int) -> bytes:
    """The text or profile in a chunk that begins with its kind; one byte more than ``most``."""
    kind, (_, _, rest) = chunk[:4], chunk[4:].partition(b"\0")
    if kind == b"iTXt":  # behind two flags, a language and a translated name
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    else:
        packed, rest = kind != b"tEXt", rest[1:] if kind != b"tEXt" else rest
    if not packed:
        return rest[: most + 1]
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(rest, most + 1)
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
