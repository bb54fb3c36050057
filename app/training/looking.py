"""What a model makes of a fixed set of pictures while it is being trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from app.pictures import Picture
from app.pictures.decode import decode
from app.pipeline.checkpoint import Parts
from app.pipeline.known import Known
from app.training.errors import CannotStart
from app.training.examples import MAX_PIXELS, View
from app.training.sources import open_source
from app.training.variations import vary

_SEED = 0
_MOST_STEPS = 25
_GAP = 4


def validation_pictures(data: str, most: int) -> list[Picture]:
    """The first ``most`` pictures of ``data``; raises :class:`CannotStart` where there is none."""
    pictures = []
    for raw in open_source(data).ordered():
        pictures.append(decode(raw.data, max_pixels=MAX_PIXELS))
        if len(pictures) == most:
            break
    if not pictures:
        raise CannotStart(f"{data} has no pictures (--validation)")
    return pictures


class Looking:
    """Grids and similarity of variations of the same pictures with the same seeds, time and again.

    A grid has a row for each picture: it, as the encoder sees it, and ``each`` variations.
    """

    def __init__(
        self, pictures: Sequence[Picture], parts: Parts, view: View, facts: Known, folder: Path
    ) -> None:
        self._parts, self._view, self._facts, self._folder = parts, view, facts, folder
        self._inputs = np.stack([view.preprocessing(p, view.fit) for p in pictures])
        self._squares = [_square(picture, view.resolution) for picture in pictures]

    def __call__(self, unet: Any, step: int, each: int = 4) -> dict[str, float]:
        """Write ``step-N.png``; the mean CLIP similarity of a variation to its input, −1 to 1."""
        embeddings = self._embed(self._inputs)
        varied = vary(
            unet,
            self._parts.vae,
            embeddings.repeat(each, axis=0),
            _SEED,
            lambda *_: None,
            scheduler_config=self._parts.scheduler_config,
            guidance=self._facts.guidance_scale,
            steps=min(_MOST_STEPS, self._facts.num_inference_steps),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = zip(
            self._squares, varied.reshape(len(self._squares), each, *varied.shape[1:]), strict=True
        )
        sheet([[square, *own] for square, own in rows]).save(self._folder / f"step-{step:08}.png")
        seen = self._embed(np.stack([self._view.preprocessing(p, self._view.fit) for p in varied]))
        return {"clip_similarity": similarity(embeddings.repeat(each, axis=0), seen)}

    @torch.inference_mode()
    def _embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        encoder = self._parts.image_encoder
        batch = torch.from_numpy(pixels).to(encoder.device, encoder.dtype)
        embeddings: NDArray[np.float32] = encoder(batch).image_embeds.float().cpu().numpy()
        return embeddings


def similarity(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The mean cosine between the rows of two arrays ``[N, D]``."""
    cosines = functional.cosine_similarity(torch.from_numpy(first), torch.from_numpy(second))
    return float(cosines.mean())


def sheet(rows: Sequence[Sequence[Picture]]) -> Image.Image:
    """Pictures of one size in rows of equal length, the first column set off by a wider gap."""
    height, width = rows[0][0].shape[:2]
    columns = len(rows[0])
    whole = Image.new(
        "RGB",
        (columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP) - _GAP),
        "white",
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            place = (j * (width + _GAP) + (2 * _GAP if j else 0), i * (height + _GAP))
            whole.paste(Image.fromarray(picture), place)
    return whole


def _square(picture: Picture, side: int) -> Picture:
    resized = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized)
