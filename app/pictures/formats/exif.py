"""The orientation in an EXIF block (EXIF 3.0, section 4.6.5), or in XMP."""

import re
import struct
from typing import Final

PREFIX: Final = b"Exif\0\0"

_ORIENTATION = 0x0112
_SHORT = 3
_IN_XMP = re.compile(rb"\btiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*([1-8])\s*[\"'<]")
_BYTE_ORDERS = {b"II": "<", b"MM": ">"}


def orientation(block: bytes) -> int:
    """1–8; 1, upright, where the block is broken: no reason to refuse a good picture."""
    block = block.removeprefix(PREFIX)
    order = _BYTE_ORDERS.get(block[:2])
    if order is None:
        return 1
    try:
        return _look_up(block, order)
    except struct.error:
        return 1


def xmp_orientation(packet: bytes) -> int:
    """1–8; 1 where an XMP packet says none (XMP specification part 2, section 3.5)."""
    found = _IN_XMP.search(packet)
    return int(found[1]) if found else 1


def _look_up(block: bytes, order: str) -> int:
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for index in range(count):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * index)
        if tag == _ORIENTATION:
            return upright_if_odd(value) if kind == _SHORT else 1
    return 1


def upright_if_odd(value: int) -> int:
    """The orientation itself if there is such a one."""
    return value if 1 <= value <= 8 else 1
