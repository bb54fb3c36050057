"""Colours: from a picture's own space to sRGB, by the ICC profile in its file (ICC.1:2022).

A profile is as hostile as the file it comes in. One that is broken, too large, of another colour
space or of a kind that takes long to compute is ignored, as if there were none.
"""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, cast

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES: Final = 4 * 2**20
"""Printers' profiles have up to some three megabytes, all others a few kilobytes."""

Space = Literal["L", "RGB", "CMYK"]
"""Colour spaces with profiles, by Pillow's names of their modes."""

_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
_CLASSES = frozenset((b"mntr", b"prtr", b"scnr", b"spac"))
_PROGRAM = b"mpet"
"""The type of tags that hold a little program, which may be as long as the file."""

_HEADER_BYTES = 128
_MAX_TAGS = 128


def to_srgb(profile: bytes, space: Space) -> Callable[[Image.Image], Image.Image] | None:
    """The conversion of pictures in this mode to sRGB; ``None`` if the profile is to be ignored.

    It takes pictures in other modes as well, which it converts to the mode first. A grey picture
    may have a profile of RGB. A profile of sRGB itself is ignored: the pixels stay what they are.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    with suppress(OSError, ValueError, struct.error, ImageCms.PyCMSError):
        _check(profile)
        spaces: tuple[Space, ...] = ("L", "RGB") if space == "L" else (space,)
        for mode in spaces:
            if profile[16:20] == _SPACES[mode]:
                convert = _conversion(profile, mode)
                return None if _changes_nothing(convert, mode) else convert
    return None


def is_grey(profile: bytes) -> bool:
    """The profile is one of grey pictures, as far as its header says."""
    return profile[16:20] == _SPACES["L"]


def _check(profile: bytes) -> None:
    """Raises :class:`ValueError` for a profile that is not one of a device or a colour space."""
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    if profile[12:16] not in _CLASSES or count > _MAX_TAGS:
        raise ValueError("not a profile of a device")
    for index in range(count):
        (offset,) = struct.unpack_from(">4xI", profile, _HEADER_BYTES + 4 + 12 * index)
        if profile[offset : offset + 4] == _PROGRAM:
            raise ValueError("a profile with programs in it")


def _conversion(profile: bytes, mode: Space) -> Callable[[Image.Image], Image.Image]:
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
    )

    def convert(image: Image.Image) -> Image.Image:
        plain = image if image.mode == mode else image.convert(mode)
        # None only where it converts in place.
        return cast("Image.Image", ImageCms.applyTransform(plain, transform))

    return convert


def _changes_nothing(convert: Callable[[Image.Image], Image.Image], mode: Space) -> bool:
    """True where it moves no colour by more than rounding, tried on a grid of them."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    colours = grid if mode == "RGB" else np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    moved = np.asarray(convert(Image.fromarray(colours)), np.int16) - colours
    return int(np.abs(moved).max()) <= 1
