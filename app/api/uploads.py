"""An uploaded file becomes an RGB array, or an error that says what was wrong with it.

Uploads are hostile until proven otherwise: only the listed formats are ever parsed, and the
number of pixels is taken from the header, before anything is decoded.
"""

import io
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from app.engine.messages import Picture
from app.errors import FormatNotAllowed, NotAPicture, TooLarge

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
FORMATS_IN_WORDS: Final = "PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF"

FIELD: Final = "image"

_WEBP_HEADER_BYTES = 30
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what turns the stored picture upright."""

# Told apart by these bytes alone: no parser of an unlisted format ever sees an upload.
_UNLISTED: Final = (
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"<svg", "SVG"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    *((0, b"P" + digit + space, "PNM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6")
      for space in (b"\n", b" ", b"\r", b"\t")),
)  # fmt: skip


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode an upload into upright RGB pixels, what is transparent laid over white.

    Raises :class:`NotAPicture`, :class:`FormatNotAllowed` or :class:`TooLarge`. Takes a while
    for a large picture; call it in a thread.
    """
    if not data:
        raise NotAPicture("The file is empty", field=FIELD)
    _check_format(data)
    _check_webp_pixels(data, max_pixels)
    # Pillow raises many kinds of error over a damaged file: whatever it is, the file is at fault.
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image.size, max_pixels)
            image.load()
            return np.asarray(_to_rgb(_upright(image)))
    except TooLarge:
        raise
    except UnidentifiedImageError:
        raise NotAPicture(
            f"The file is not a picture that can be read; send {FORMATS_IN_WORDS}", field=FIELD
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(_too_many_pixels(max_pixels), field=FIELD) from None
    except Exception as error:
        raise NotAPicture(
            "The picture is damaged or cut off: it begins like a picture, but not all of it "
            "can be read",
            field=FIELD,
        ) from error


def _check_format(data: bytes) -> None:
    for offset, magic, name in _UNLISTED:
        if data.startswith(magic, offset):
            raise FormatNotAllowed(
                f"{name} files are not accepted; send {FORMATS_IN_WORDS}", field=FIELD
            )


def _check_webp_pixels(data: bytes, max_pixels: int) -> None:
    """WebP alone is checked by hand: opening one already allocates its whole canvas."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_pixels(_webp_size(data[:_WEBP_HEADER_BYTES]), max_pixels)


def _webp_size(header: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, section 2)."""
    chunk, body = header[12:16], header[20:]
    if chunk == b"VP8X":
        return _little(body[4:7]) + 1, _little(body[7:10]) + 1
    if chunk == b"VP8L":
        bits = _little(body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(f"The picture is {width}×{height}; {_too_many_pixels(max_pixels)}",
                       field=FIELD)  # fmt: skip


def _too_many_pixels(max_pixels: int) -> str:
    return f"at most {max_pixels:,} pixels are accepted"


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, after loading: Pillow turns a TIFF itself while it loads."""
    try:
        transpose = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block is no reason to refuse a good picture
        return image
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, _to_rgba(image)).convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied modes only to their plain counterparts.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(plain) if plain else image).convert("RGBA")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    return cast("Image.Image", converted)  # None only when it converts in place


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits to 0–255, where ``convert`` would clip them."""
    values = np.asarray(image).astype(np.float64)
    grey = Image.fromarray(_scaled(values, _white(image.mode, values)))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha))
    return grey


def _scaled(values: NDArray[np.float64], white: float) -> NDArray[np.uint8]:
    finite = np.nan_to_num(values / white, nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(np.clip(finite, 0.0, 1.0) * 255.0).astype(np.uint8)


def _white(mode: str, values: NDArray[np.float64]) -> float:
    """The value that stands for white.

    16-bit modes say it. Whole 32-bit and floating-point numbers do not: white is the smallest
    usual full scale that holds the brightest pixel.
    """
    if mode.startswith("I;16"):
        return 65535.0
    scales = (255.0, 65535.0, 2.0**31 - 1) if mode == "I" else (1.0, 255.0, 65535.0)
    brightest = float(np.max(values, initial=0.0, where=np.isfinite(values)))
    return next((scale for scale in scales if brightest <= scale), brightest)
