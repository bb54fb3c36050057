"""Memory that decoding holds at once, seen from outside: Pillow's memory is not Python's.

The peak is the kernel's ``VmHWM``; ``ru_maxrss`` would begin at that of the process that started
this one.
"""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from app.pictures.decode import BYTES_PER_PIXEL
from tests.support.bombs import (
    BOMBS,
    LONG,
    SHORT,
    riff_chunk,
    saved,
    tiff,
    tiff_rest,
    webp,
    webp_pixels,
)
from tests.support.figures import record

QUICK, LARGEST = (3000, 2000), (10_000, 5000)

AROUND = 24 * 2**20
"""Bytes for strips, tables and what the allocator keeps, whatever the size."""

DECODE = """
import re, sys
from pathlib import Path
from app.pictures.decode import decode
from app.errors import BadInput

def peak():
    return 1024 * int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

decode(Path(sys.argv[1]).read_bytes(), max_pixels=50_000_000)
files = [Path(name).read_bytes() for name in sys.argv[2:]]
before, refused = peak(), 0
for data in files:
    try:
        decode(data, max_pixels=50_000_000)
    except BadInput:
        refused += 1
print(peak() - before, refused)
"""


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    """Coarse noise, which no compression makes nothing of."""
    width, height = size
    small = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.NEAREST).convert(mode)


def deep_png(size: tuple[int, int]) -> bytes:
    return saved(Image.fromarray(np.asarray(noise("L", size)).astype(np.uint16) * 257), "PNG")


def deep_tiff(size: tuple[int, int]) -> bytes:
    """Four colours of 16 bits, in one compressed strip."""
    width, height = size
    values = zlib.compress(bytes(8 * width * height), 1)
    start = tiff_rest(9)
    entries = [
        *((256, LONG, 1, width), (257, LONG, 1, height), (258, SHORT, 4, start)),
        *((259, SHORT, 1, 8), (262, SHORT, 1, 5), (273, LONG, 1, start + 8), (277, SHORT, 1, 4)),
        *((278, LONG, 1, height), (279, LONG, 1, len(values))),
    ]
    return tiff(entries, struct.pack("<4H", 16, 16, 16, 16) + values)


def lab_tiff(size: tuple[int, int]) -> bytes:
    grey = noise("L", size)
    return saved(Image.merge("LAB", (grey, grey, grey)), "TIFF", compression="packbits")


def writer(file_format: str, mode: str, **options: object) -> Callable[[tuple[int, int]], bytes]:
    return lambda size: saved(noise(mode, size), file_format, **options)


CASES: Final[dict[str, tuple[int, Callable[[tuple[int, int]], bytes]]]] = {
    "PNG RGBA": (7, writer("PNG", "RGBA", compress_level=1)),
    "PNG P, transparent": (7, writer("PNG", "P", compress_level=1, transparency=bytes(256))),
    "PNG I;16": (7, deep_png),
    "JPEG RGB": (7, writer("JPEG", "RGB")),
    "JPEG RGB, progressive": (10, writer("JPEG", "RGB", progressive=True, subsampling=0)),
    "JPEG CMYK, progressive": (12, writer("JPEG", "CMYK", progressive=True, subsampling=0)),
    "WEBP RGB": (16, writer("WEBP", "RGB", method=0)),
    "WEBP RGBA, lossless": (16, writer("WEBP", "RGBA", method=0, lossless=True, quality=0)),
    "GIF": (7, writer("GIF", "P")),
    "BMP": (7, writer("BMP", "RGB")),
    "TIFF CMYK": (8, writer("TIFF", "CMYK", compression="tiff_adobe_deflate")),
    "TIFF YCbCr": (11, writer("TIFF", "YCbCr", compression="tiff_adobe_deflate")),
    "TIFF LAB": (7, lab_tiff),
    "TIFF CMYK of 16 bits": (12, deep_tiff),
}
"""Most bytes a pixel besides copies of the file, and the file."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture, decoded first so that loading libraries does not count."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    path.write_bytes(saved(Image.new("LA", (600, 600)), "PNG"))
    return path


def peak_of(*arguments: Path) -> tuple[int, int]:
    """Bytes that decoding all but the first takes over what the first took; how many failed."""
    command = [sys.executable, "-c", DECODE, *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, refused = map(int, printed.split())
    return peak, refused


@pytest.mark.parametrize("name", CASES)
def test_decoding_holds_no_more_bytes_a_pixel_than_it_says(
    name: str, small: Path, tmp_path: Path
) -> None:
    assert_bounded(name, QUICK, small, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("name", CASES)
def test_the_largest_pictures_hold_no_more_bytes_a_pixel_than_it_says(
    name: str, small: Path, tmp_path: Path
) -> None:
    peak = assert_bounded(name, LARGEST, small, tmp_path)
    pixels = LARGEST[0] * LARGEST[1]
    record(f"decoding: {name}", {"megapixels": pixels / 1e6, "bytes_per_pixel": peak / pixels})


def assert_bounded(name: str, size: tuple[int, int], small: Path, folder: Path) -> int:
    most, write = CASES[name]
    assert most <= BYTES_PER_PIXEL
    path = folder / "picture"
    path.write_bytes(write(size))
    peak, refused = peak_of(small, path)
    assert not refused
    answer = 3 * size[0] * size[1]
    assert peak > answer - AROUND
    assert peak <= most * size[0] * size[1] + 2 * path.stat().st_size + AROUND
    return peak


def test_a_long_file_is_copied_three_times_at_most(small: Path, tmp_path: Path) -> None:
    """With few pixels the most is held before any is decoded, by Pillow's WebP."""
    path = tmp_path / "picture"
    path.write_bytes(webp(riff_chunk(b"VP8 ", webp_pixels()[8:] + bytes(60_000_000))))
    peak, refused = peak_of(small, path)
    assert not refused
    assert peak < 3 * path.stat().st_size + AROUND


def test_bombs_take_no_memory(small: Path, tmp_path: Path) -> None:
    assert peak_of(small, *bombs(tmp_path, 2 * 2**20))[0] < AROUND


@pytest.mark.chaos
def test_bombs_as_large_as_an_upload_may_be_take_no_memory(small: Path, tmp_path: Path) -> None:
    size = 20 * 2**20 - 2000
    peak, _ = peak_of(small, *bombs(tmp_path, size))
    record("decoding bombs", {"bombs": len(BOMBS), "peak_megabytes": peak / 1e6})
    assert peak < 2 * size + AROUND


def bombs(folder: Path, size: int) -> list[Path]:
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make(size))
    return sorted(folder.iterdir())
