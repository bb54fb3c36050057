"""Small pictures whose pixels a test can tell apart."""

import io

import numpy as np
from PIL import Image

from app.pictures import Picture


def picture_file(file_format: str, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture whose four quarters are red, green, blue and grey, as a file."""
    file = io.BytesIO()
    Image.fromarray(quarters(size)).save(file, format=file_format)
    return file.getvalue()


def quarters(size: tuple[int, int] = (40, 30)) -> Picture:
    width, height = size
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 40)
    pixels[height // 2 :, : width // 2] = (40, 50, 210)
    return pixels
