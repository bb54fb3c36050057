"""GIF: a screen, then blocks of sub-blocks, pictures among them (GIF89a specification)."""

import struct
from typing import Final

from app.pictures.formats.contents import Contents, Damaged, PartCounter

SIGNATURES: Final = (b"GIF87a", b"GIF89a")

_SCREEN_END = 13
_PALETTE_FOLLOWS = 0x80
_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9
_TRANSPARENT = 1


def read(data: bytes) -> Contents:
    """Comments and what an animation does with the picture are left out."""
    head = _SCREEN_END + _palette_bytes(data[10])
    control, start = _find_picture(data, head)
    width, height = struct.unpack_from("<HH", data, 6)
    left, top, across, down = struct.unpack_from("<4H", data, start + 1)
    size = (max(width, left + across), max(height, top + down))
    return Contents(size, data[:head] + control + data[start:])


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & _PALETTE_FOLLOWS else 0


def _find_picture(data: bytes, position: int) -> tuple[bytes, int]:
    """The control extension that makes a colour transparent, if any, and where the picture is."""
    control, parts = b"", PartCounter()
    while (kind := data[position]) != _PICTURE:
        parts.add()
        if kind == _END:
            raise Damaged("there is no picture in it")
        if kind == _EXTENSION:
            if data[position + 1] == _CONTROL:
                control = _transparency(data, position)
            position = _after_blocks(data, position + 2, parts)
        else:  # a stray byte, as some encoders leave
            position += 1
    return control, position


def _transparency(data: bytes, position: int) -> bytes:
    """The extension without its disposal, which Pillow would prepare for at once."""
    flags, colour = data[position + 3], data[position + 6]
    return bytes((_EXTENSION, _CONTROL, 4, flags & _TRANSPARENT, 0, 0, colour, 0))


def _after_blocks(data: bytes, position: int, parts: PartCounter) -> int:
    while length := data[position]:
        parts.add()
        position += 1 + length
    return position + 1
