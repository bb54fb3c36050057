"""Pictures in every accepted format, broken in the ways that files break."""

import io
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.support.bombs import compressed_big_tiff

Mutator = Callable[[bytes, Random], bytes]

_KINDS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("PNG", {}, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("JPEG", {}, ("L", "RGB", "CMYK")),
    ("JPEG", {"progressive": True}, ("L", "RGB", "CMYK")),
    ("WEBP", {}, ("RGB", "RGBA")),
    ("WEBP", {"lossless": True}, ("RGB", "RGBA")),
    ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]}, ("RGB", "RGBA")),
    ("GIF", {}, ("L", "P")),
    ("BMP", {}, ("1", "L", "P", "RGB")),
    ("TIFF", {}, ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")),
    ("TIFF", {"big_tiff": True}, ("L", "RGB")),
    ("TIFF", {"compression": "tiff_lzw"}, ("P", "RGB")),
    ("TIFF", {"compression": "tiff_adobe_deflate"}, ("1", "RGB", "CMYK")),
    ("TIFF", {"compression": "jpeg"}, ("L", "RGB")),
    ("TIFF", {"compression": "packbits"}, ("RGB",)),
)
"""Format, how it is saved, and modes."""
_EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01")


@cache
def seeds() -> tuple[bytes, ...]:
    """A small good file of every kind and mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    files = [compressed_big_tiff(pixels[..., 0])]
    for file_format, options, modes in _KINDS:
        for mode in modes:
            image = Image.fromarray(pixels)
            deep = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else None
            file = io.BytesIO()
            (deep or image.convert(mode)).save(file, file_format, **options)
            files.append(file.getvalue())
    return tuple(files)


def mutated(n: int, seed: int) -> Iterator[bytes]:
    """``n`` broken files; the same for the same seed."""
    random, good = Random(seed), seeds()
    for _ in range(n):
        data = random.choice(good)
        for _ in range(random.randint(1, 3)):
            data = random.choice(_MUTATORS)(data, random)
        yield data


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(data: bytes, random: Random) -> bytes:
    start, end = _part(data, random)
    return data[:start] + data[end:]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = _part(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _extreme(data: bytes, random: Random) -> bytes:
    """A field of the header, where sizes and counts are, becomes very small or very large."""
    start, width = random.randrange(max(1, min(len(data), 80))), random.choice((1, 2, 4))
    return data[:start] + random.choice(_EXTREMES) * width + data[start + width :]


def _splice(data: bytes, random: Random) -> bytes:
    other = random.choice(seeds())
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other)) :]


def _part(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(1, 64))


_MUTATORS: tuple[Mutator, ...] = (_flip, _truncate, _remove, _repeat, _extreme, _splice)
