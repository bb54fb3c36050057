"""Pictures on their way out."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from app.pictures.encode import OutputFormat, encode, encode_base64
from tests.support.pictures import quarters


def test_png_keeps_every_pixel() -> None:
    with Image.open(io.BytesIO(encode(quarters(), OutputFormat.PNG, None))) as image:
        assert (np.asarray(image) == quarters()).all()


@pytest.mark.parametrize("output_format", OutputFormat)
def test_the_file_is_what_its_media_type_says(output_format: OutputFormat) -> None:
    data = base64.b64decode(encode_base64(quarters(), output_format, None), validate=True)
    with Image.open(io.BytesIO(data)) as image:
        assert Image.MIME[image.format or ""] == output_format.media_type
        assert image.size == (40, 30)
        assert np.abs(np.asarray(image).astype(int) - quarters()).mean() < 8
