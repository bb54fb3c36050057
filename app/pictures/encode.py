"""RGB arrays become files, and files become text for JSON."""

import base64
import io
from enum import StrEnum
from typing import Any

from PIL import Image

from app.pictures import Picture


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


def encode(picture: Picture, output_format: OutputFormat) -> bytes:
    """The picture as a file. Takes a while; call it in a thread."""
    file = io.BytesIO()
    image = Image.fromarray(picture)
    image.save(file, format=output_format.value.upper(), **_OPTIONS[output_format])
    return file.getvalue()


def encode_base64(picture: Picture, output_format: OutputFormat) -> str:
    """The picture as a file, in base64."""
    return base64.b64encode(encode(picture, output_format)).decode("ascii")
