"""From an uploaded file to an RGB array, or to an error that says what was wrong with it.

Uploads are hostile until proven otherwise: only the listed formats are ever parsed, the number of
pixels is taken from the header before anything is decoded, and of a file nothing but its first
picture reaches the library that decodes it (:mod:`app.pictures.formats`).

Memory. At the worst, which is WebP, decoding holds 16 bytes for every pixel: libwebp's two
canvases, its answer and Pillow's picture, 4 bytes each. JPEG takes up to 12, progressive and in
four colours; TIFF too, where four colours of 16 bits are one strip; the others 7. That is the
picture as Pillow holds it, at most 4, and the answer, 3: what is done to it is done in strips.
To this come the file, two copies of it (three while Pillow opens a WebP), and a few megabytes for
strips and tables.
"""

import ctypes
import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Final, cast

import numpy as np
from PIL import Image, ImageCms, _imaging

from app.errors import BadInput, FormatNotAllowed, NotAPicture, TooLarge
from app.parameters import Size
from app.pictures import Picture
from app.pictures.colour import Space, is_grey, to_srgb
from app.pictures.formats import first_picture, format_of
from app.pictures.formats.contents import FIELD, Contents

FORMATS_IN_WORDS: Final = "PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF"

BYTES_PER_PIXEL: Final = 16
"""Most that decoding holds at once for every pixel, of any format and mode; copies of the file are
not in it."""

MAX_SIDE: Final = 65_535
"""Pixels: more than JPEG, GIF and most programs can hold is refused."""

_STRIP_PIXELS = 2**18
_TILED = 2
"""Times the most pixels, that all tiles together may have: those at the edges are seen in part."""
_GREY_WITHIN = 8
_NOISES = tuple(np.random.default_rng(seed).bytes(4096).replace(b"\xff", b"") for seed in range(4))

Convert = Callable[[Image.Image], Image.Image]


# Told apart by these bytes alone: no parser of an unlisted format ever sees an upload.
_UNLISTED: Final = {
    "AVIF": (4, (b"ftypavif", b"ftypavis")),
    "HEIC": (4, (b"ftyphei", b"ftyphev")),
    "HEIF": (4, (b"ftypmif1", b"ftypmsf1")),
    "JPEG XL": (0, (b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\xff\x0a")),
    "JPEG 2000": (0, (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    "Photoshop": (0, (b"8BPS",)),
    "ICO": (0, (b"\x00\x00\x01\x00",)),
    "CUR": (0, (b"\x00\x00\x02\x00",)),
    "ICNS": (0, (b"icns",)),
    "PDF": (0, (b"%PDF",)),
    "PostScript": (0, (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    "SVG": (0, (b"<svg",)),
    "QOI": (0, (b"qoif",)),
    "DDS": (0, (b"DDS ",)),
    "SGI": (0, (b"\x01\xda",)),
    "OpenEXR": (0, (b"\x76\x2f\x31\x01",)),
    "Radiance HDR": (0, (b"#?RADIANCE",)),
    "PNM": (0, tuple(b"P%c%c" % pair for pair in product(b"123456", b"\n \r\t"))),
}


_AS_TEXT = (
    b"data:image/",
    *(b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"SUkq", b"TU0AK"),
)
"""Beginnings of a data URL, and of JPEG, PNG, GIF, WebP and TIFF in base64."""

# libtiff's handler of errors would write between the lines of the log for every damaged TIFF.
# It is found in what Pillow's extension is linked to; in a build that hides libtiff it stays.
with suppress(OSError, AttributeError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode an upload into upright sRGB pixels, what is transparent laid over white.

    Raises :class:`NotAPicture`, :class:`FormatNotAllowed` or :class:`TooLarge`. Takes a while
    and much memory for a large picture: uploads are decoded by :mod:`app.pictures.sandbox`.
    """
    name = _format(data)
    # Many kinds of error are raised over a damaged file: whatever it is, the file is at fault.
    try:
        contents = first_picture(data, name)
        _check_size(contents.size, max_pixels)
        if contents.tile is not None:
            _check_tiles(contents.size, contents.tile, max_pixels)
        return _decoded(contents, name)
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        raise NotAPicture(
            "The picture is damaged or cut off: it begins like a picture, but not all of it "
            "can be read",
            field=FIELD,
        ) from error


def _format(data: bytes) -> str:
    if not data:
        raise NotAPicture("The file is empty", field=FIELD)
    for unlisted, (offset, beginnings) in _UNLISTED.items():
        if data.startswith(beginnings, offset):
            raise FormatNotAllowed(
                f"{unlisted} files are not accepted; send {FORMATS_IN_WORDS}", field=FIELD
            )
    if data[:64].lstrip().startswith(_AS_TEXT):
        raise NotAPicture(
            "The file is base64 text and no picture; decode it, and send the picture's own bytes",
            field=FIELD,
        )
    name = format_of(data)
    if name is None:
        raise NotAPicture(
            f"The file is not a picture that can be read; send {FORMATS_IN_WORDS}", field=FIELD
        )
    return name


def _check_size(size: Size, max_pixels: int, subject: str = "The picture is") -> None:
    width, height = size
    given = f"{subject} {width}×{height}"
    if min(size) < 1:
        raise NotAPicture(f"{given}: there is nothing in it", field=FIELD)
    if width * height > max_pixels:
        raise TooLarge(f"{given}; at most {max_pixels:,} pixels are accepted", field=FIELD)
    if max(size) > MAX_SIDE:
        raise TooLarge(f"{given}; no side may be longer than {MAX_SIDE:,} pixels", field=FIELD)


def _check_tiles(size: Size, tile: Size, max_pixels: int) -> None:
    """Each tile is decoded whole, however little of it is seen."""
    _check_size(tile, max_pixels, "The picture's tiles are")
    pixels = math.prod(-(-side // step) * step for side, step in zip(size, tile, strict=True))
    if pixels > _TILED * max_pixels:
        raise TooLarge(
            f"The picture's tiles of {tile[0]}×{tile[1]} have {pixels:,} pixels in all; at most "
            f"{_TILED * max_pixels:,} are accepted: save it with smaller tiles, or without",
            field=FIELD,
        )


def _decoded(contents: Contents, name: str) -> Picture:
    picture = _opened(contents, contents.data, name)
    if contents.end_missing:
        # Decoders fill up what is missing. A whole picture is the same whatever stands behind it.
        before = zlib.crc32(np.ascontiguousarray(picture).data)
        for noise in _NOISES:
            del picture  # there is no memory for two
            picture = _opened(contents, contents.data[:-2] + noise + contents.data[-2:], name)
            if zlib.crc32(np.ascontiguousarray(picture).data) != before:
                raise ValueError("it ends before the end of the picture")
    return picture


def _opened(contents: Contents, data: bytes, name: str) -> Picture:
    with Image.open(io.BytesIO(data), formats=(name,)) as image:
        if image.size != contents.size:
            raise ValueError(f"read as {image.size}, though its header says {contents.size}")
        has_deep_key = (
            any(piece.args == "RGB;16B" for piece in image.tile) and "transparency" in image.info
        )
        image.load()
        if has_deep_key:
            _apply_deep_key(image, data)
        return _upright(_to_rgb(image, contents.profile), contents.orientation)


def _apply_deep_key(image: Image.Image, data: bytes) -> None:
    """Make the pixels of a PNG's transparent colour of 16 bits transparent.

    Pillow has kept the upper bytes alone, and would take all colours for it that share those.
    """
    key = image.info.pop("transparency")
    alpha = Image.new("L", image.size, "white")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as lower:
        # Read as if the upper bytes were the lower ones.
        lower.tile = [piece._replace(args="RGB;16L") for piece in lower.tile]
        lower.load()
        for (top, upper_strip), (_, lower_strip) in zip(
            _strips(image), _strips(lower), strict=True
        ):
            colours = np.asarray(upper_strip).astype(np.uint16) << 8 | np.asarray(lower_strip)
            seen = (colours != key).any(axis=-1)
            alpha.paste(Image.fromarray(np.where(seen, 255, 0).astype(np.uint8)), (0, top))
    image.putalpha(alpha)


def _to_rgb(image: Image.Image, profile: bytes) -> Picture:
    """Convert in strips: a whole picture in every intermediate mode would take gigabytes."""
    convert = _converter(image, profile)
    picture = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        picture[top : top + strip.height] = np.asarray(convert(strip))
    return picture


def _upright(picture: Picture, orientation: int) -> Picture:
    """The stored picture turned as EXIF's orientation says, without a copy of its pixels."""
    turned = picture.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else picture
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return turned[::rows, ::columns]


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom, and the row at which each strip begins."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image, profile: bytes) -> Convert:
    """The function that makes sRGB of each strip of this picture."""
    if image.mode == "LAB":
        return _lab_to_rgb()
    to_rgb = to_srgb(profile, _space(image, profile)) if profile else None
    to_rgb = to_rgb or partial(Image.Image.convert, mode="RGB")
    if _is_deep(image):
        return partial(_deep_to_rgb, to_rgb=to_rgb)
    if image.has_transparency_data:
        return partial(_over_white, to_rgb=to_rgb)
    return to_rgb


def _is_deep(image: Image.Image) -> bool:
    """Grey of more than 8 bits."""
    return image.mode.startswith("I;16")


def _space(image: Image.Image, profile: bytes) -> Space:
    """The colour space that the picture's profile should be of."""
    if image.mode == "CMYK":
        return "CMYK"
    if _is_deep(image) or image.mode in ("1", "L", "LA", "La"):
        return "L"
    # WebP has no grey, but keeps the profile of a picture that was.
    return "L" if is_grey(profile) and _looks_grey(image) else "RGB"


def _looks_grey(image: Image.Image) -> bool:
    """True where no pixel has more colour than lossy compression makes."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    return all(
        int(np.ptp(np.asarray(strip)[..., :3], axis=-1).max()) <= _GREY_WITHIN
        for _, strip in _strips(image)
    )


def _over_white(image: Image.Image, to_rgb: Convert) -> Image.Image:
    # Pillow converts premultiplied modes only to their plain counterparts.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    rgba = (image.convert(plain) if plain else image).convert("RGBA")
    coloured = to_rgb(rgba.convert("RGB"))
    coloured.putalpha(rgba.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")


def _lab_to_rgb() -> Convert:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    # Its result is None only when it converts in place.
    return cast(Convert, partial(ImageCms.applyTransform, transform=transform))


def _deep_to_rgb(image: Image.Image, to_rgb: Convert) -> Image.Image:
    """Scale grey values of 16 bits to 0–255, where ``convert`` would clip them."""
    values = np.asarray(image).astype(np.float64)
    grey = Image.fromarray(np.rint(values / 65535 * 255).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return to_rgb(grey)
    alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
    grey.putalpha(Image.fromarray(alpha))
    return _over_white(grey, to_rgb)
