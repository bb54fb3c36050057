"""From a picture and its fields to the request that is sent."""

import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import httpx2
from PIL import Image, ImageOps

Picture = str | os.PathLike[str] | bytes | Image.Image
"""A picture to vary: the path of a file, the bytes of one, or an image of Pillow's."""

_ONE = (str, os.PathLike, bytes, Image.Image)
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Fields(TypedDict, total=False):
    """The form's fields beside the picture, as the README describes them.

    What is left out, or ``None``, is left to the service.
    """

    n: int | None
    seed: int | None
    guidance_scale: float | None
    guidance_start: float | None
    guidance_end: float | None
    num_inference_steps: int | None
    scheduler: str | None
    width: int | None
    height: int | None
    fit: str | None
    output_format: str | None
    previews: bool | None
    weight: Sequence[float] | None
    mix: str | None
    negative_image: Picture | None
    strength: float | None


def build(
    http: httpx2.Client | httpx2.AsyncClient, pictures: Picture | Sequence[Picture], fields: Fields
) -> httpx2.Request:
    """The request, whole and in memory: every try sends the same bytes under the same key.

    Raises :class:`OSError` for a file that cannot be read.
    """
    images = [pictures] if isinstance(pictures, _ONE) else pictures
    files = [("image", _file(image)) for image in images]
    given = {name: value for name, value in fields.items() if value is not None}
    if negative := fields.get("negative_image"):
        del given["negative_image"]
        files.append(("negative_image", _file(negative)))
    request = http.build_request(
        "POST",
        "variations",
        files=files,
        data=given,
        headers={"accept": "text/event-stream", "idempotency-key": str(uuid.uuid4())},
    )
    request.read()
    return request


def _file(picture: Picture) -> tuple[str, bytes]:
    """A name, and the bytes of a file."""
    match picture:
        case bytes():
            return "picture", picture
        case Image.Image():
            return "picture", _written(picture)
        case _:
            return Path(picture).name, Path(picture).read_bytes()


def _written(image: Image.Image) -> bytes:
    """The image without loss: as a PNG, or as a TIFF where its mode needs one. Upright."""
    upright = ImageOps.exif_transpose(image)
    file = io.BytesIO()
    upright.save(file, format="PNG" if upright.mode in _PNG_MODES else "TIFF")
    return file.getvalue()
