"""RGB arrays become files that say how they were made, and files become text for JSON."""

import base64
import io
from enum import StrEnum
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.pictures import Picture
from app.pictures.provenance import SOFTWARE, XMP_KEYWORD, Origin
from app.pictures.signing import Signer


class OutputFormat(StrEnum):
    """The file formats an answer may be asked in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The name of the format in a ``Content-Type``."""
        return f"image/{self.value}"


_OPTIONS: dict[OutputFormat, dict[str, Any]] = {
    OutputFormat.PNG: {},
    OutputFormat.JPEG: {"quality": 95, "subsampling": 0},
    OutputFormat.WEBP: {"quality": 95},
}


PREVIEW_TYPE = "image/jpeg"


def encode_preview(picture: Picture) -> str:
    """A preview as a small JPEG, in base64. Takes a while; call it in a thread."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=75)
    return base64.b64encode(file.getvalue()).decode("ascii")


def encode(
    picture: Picture,
    output_format: OutputFormat,
    origin: Origin | None,
    signer: Signer | None = None,
) -> bytes:
    """The picture as a file that tells its ``origin``. Takes a while; call it in a thread.

    The same picture and origin make the same bytes; a ``signer`` adds to them a signature that is
    another one each time, or raises :class:`SigningFailed`.
    """
    file = io.BytesIO()
    options = _OPTIONS[output_format] | (_metadata(origin, output_format) if origin else {})
    Image.fromarray(picture).save(file, format=output_format.value.upper(), **options)
    written = file.getvalue()
    return signer.sign(written, output_format.media_type) if signer else written


def encode_base64(
    picture: Picture,
    output_format: OutputFormat,
    origin: Origin | None,
    signer: Signer | None = None,
) -> str:
    """The picture as a file, in base64."""
    return base64.b64encode(encode(picture, output_format, origin, signer)).decode("ascii")


def _metadata(origin: Origin, output_format: OutputFormat) -> dict[str, Any]:
    """Options of Pillow's ``save`` that write it; of PNG it knows text alone."""
    xmp = origin.to_xmp()
    if output_format is not OutputFormat.PNG:
        return {"xmp": xmp}
    text = PngInfo()
    text.add_text("Software", SOFTWARE)
    text.add_text("parameters", origin.to_json())
    text.add_itxt(XMP_KEYWORD, xmp.decode())
    return {"pnginfo": text}
