"""The files that pictures come in, taken apart by hand before any library sees them.

A library that reads a whole file builds an object for every chunk, tag, comment and frame in it:
minutes and gigabytes, for an upload made to that end. Here each format's own walk, bounded by
:data:`app.pictures.formats.contents.MAX_PARTS`, finds the sizes and the orientation, and copies the
first picture's own parts into a file of nothing else. That file is what Pillow reads.

::

    contents   the result of a walk
    exif       the orientation in an EXIF block
    png jpeg gif webp bmp tiff   a walk each
"""

from collections.abc import Callable
from typing import Final

from app.pictures.formats import bmp, gif, jpeg, png, tiff, webp
from app.pictures.formats.contents import Contents

_READERS: Final[dict[str, tuple[tuple[bytes, ...], Callable[[bytes], Contents]]]] = {
    "PNG": ((png.SIGNATURE,), png.read),
    "JPEG": ((jpeg.SIGNATURE,), jpeg.read),
    "WEBP": ((webp.SIGNATURE,), webp.read),
    "GIF": (gif.SIGNATURES, gif.read),
    "BMP": ((bmp.SIGNATURE,), bmp.read),
    "TIFF": (tiff.SIGNATURES, tiff.read),
}

FORMATS: Final = tuple(_READERS)
"""The formats that are accepted, by Pillow's names."""


def format_of(data: bytes) -> str | None:
    """The accepted format that the first bytes tell, if any."""
    for name, (signatures, _) in _READERS.items():
        if data.startswith(signatures):
            return name
    return None


def first_picture(data: bytes, name: str) -> Contents:
    """Take a file of the format apart.

    Raises :class:`app.errors.BadInput` for what is refused, and any exception that reading
    beyond the end raises for what is damaged.
    """
    _, read = _READERS[name]
    return read(data)
