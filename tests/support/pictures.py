"""Small pictures whose pixels a test can tell apart."""

import io

import numpy as np
from numpy.typing import NDArray
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


def gradient() -> NDArray[np.uint8]:
    """Grey from black to white."""
    return np.linspace(0, 255, 64 * 16).astype(np.uint8).reshape(16, 64)


def in_mode(mode: str) -> Image.Image:
    """A ramp from black to white in any of Pillow's modes."""
    ramp = gradient()
    grey = Image.fromarray(ramp)
    match mode:
        case "I;16" | "I;16B":
            values = ramp.astype(np.uint16) * 257
            return Image.fromarray(values.astype(">u2" if mode == "I;16B" else "<u2"))
        case "LAB":
            no_colour = Image.new("L", grey.size, 128)
            return Image.merge("LAB", (grey, no_colour, no_colour))
        case _:
            return grey.convert("RGB").convert(mode)
