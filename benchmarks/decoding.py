"""Decoding in processes of its own: ``python -m benchmarks.decoding``.

Pictures of 50 megapixels are decoded by one process, then by four at once, while the event loop
that waits for them is asked every millisecond how late it is.
"""

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.parameters import Fit
from app.pictures.fit import Preprocessing
from app.pictures.sandbox import Decoders, Limits

FIGURES = Path(__file__).with_name("results") / "decoding.json"
SIZE = (10_000, 5000)
UPLOAD_BYTES = 20 * 2**20
AT_ONCE = 4
TICK = 0.001

CLIP = Preprocessing(
    224, False, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


def photograph() -> bytes:
    """A JPEG of 50 megapixels, filled up to the largest upload with bytes that are not read."""
    coarse = np.random.default_rng(0).integers(0, 256, (500, 1000, 3), np.uint8)
    return saved(Image.fromarray(coarse).resize(SIZE), "JPEG").ljust(UPLOAD_BYTES, b"\0")


def saved(image: Image.Image, file_format: str) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, format=file_format)
    return file.getvalue()


async def lateness(decoding: asyncio.Future[Any]) -> list[float]:
    """Seconds by which the loop was late, asked until the decoding is done."""
    late = []
    while not decoding.done():
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        late.append(time.perf_counter() - due)
    return late


async def measure(decoders: Decoders, data: bytes, at_once: int) -> dict[str, float]:
    """Decode so many at once; all figures are seconds."""
    began = time.perf_counter()

    async def read() -> bytes:
        return data

    decoding = asyncio.gather(
        *(decoders.decode(read, fit=Fit.CROP, preprocessing=CLIP) for _ in range(at_once))
    )
    late = await lateness(decoding)
    await decoding
    return {
        "at_once": at_once,
        "seconds": time.perf_counter() - began,
        "loop_late_p50": float(np.quantile(late, 0.5)),
        "loop_late_p99": float(np.quantile(late, 0.99)),
        "loop_late_most": max(late),
    }


async def figures() -> list[dict[str, float]]:
    """Of one picture, and of four."""
    data = photograph()
    limits = Limits.of(max_pixels=SIZE[0] * SIZE[1], max_upload_bytes=UPLOAD_BYTES)
    decoders = Decoders(limits, AT_ONCE)
    await decoders.start()
    await measure(decoders, saved(Image.new("L", (8, 8)), "PNG"), 1)  # wait until it is warm
    found = [await measure(decoders, data, at_once) for at_once in (1, AT_ONCE)]
    await decoders.stop()
    return found


def main() -> None:
    """Measure, print and keep."""
    found = asyncio.run(figures())
    for line in found:
        print(", ".join(f"{name} {value:.4g}" for name, value in line.items()))
    FIGURES.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
