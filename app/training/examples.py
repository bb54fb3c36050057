"""Endless training examples, the same for any number of processes and of loading workers."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from app.errors import BadInput
from app.parameters import EncoderInput, Fit
from app.pictures import Picture
from app.pictures.decode import decode
from app.pictures.fit import Preprocessing
from app.training.errors import CannotStart
from app.training.sieve import Sieve
from app.training.sources import Source

MAX_PIXELS = 50_000_000


class Place(NamedTuple):
    """How far a run has come in its data: ``taken`` pictures of epoch ``epoch``."""

    epoch: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A picture as it is trained on: the square to be drawn, and what the encoder sees of it.

    Both are of one square crop. The encoder sees it at its full size through the very code that
    serving sees an upload with; the square to be drawn is resized, bicubic, to ``resolution``.
    """

    resolution: int
    preprocessing: Preprocessing
    fit: Fit = Fit.SQUASH
    random_crop: bool = True
    flip: bool = False

    def __call__(
        self, picture: Picture, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], EncoderInput]:
        """``float32 [3, R, R]`` in [−1, 1], and the encoder's input ``float32 [3, S, S]``."""
        crop = self._crop(picture, rng)
        if self.flip and rng.random() < 0.5:
            crop = np.ascontiguousarray(crop[:, ::-1])
        side = (self.resolution, self.resolution)
        resized = np.asarray(Image.fromarray(crop).resize(side, Image.Resampling.BICUBIC))
        drawn = resized.astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
        return np.ascontiguousarray(drawn), self.preprocessing(crop, self.fit)

    def _crop(self, picture: Picture, rng: np.random.Generator) -> Picture:
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        if self.random_crop:
            top, left = (int(rng.integers(n - side + 1)) for n in (height, width))
        return np.ascontiguousarray(picture[top : top + side, left : left + side])


@dataclass(frozen=True, slots=True)
class Share:
    """The batches of one process among ``processes``, which take turns."""

    batch: int
    process: int = 0
    processes: int = 1

    def takes(self, position: int, worker: int = 0, workers: int = 1) -> bool:
        """True where loading worker ``worker`` of this process makes the example.

        ``position`` counts from where this run begins, as a loader's turns among its workers do.
        """
        turn, process = divmod(position // self.batch, self.processes)
        return process == self.process and turn % workers == worker


class Examples(IterableDataset[dict[str, Any]]):
    """Examples from ``place`` in the data on, their positions counted from ``position``.

    An example has ``pixels`` and ``encoder`` as :class:`View` makes them, its ``position``, its
    ``place``, and ``weight`` 0 where the picture cannot be decoded and 1 elsewhere. All that is
    random about it depends on ``seed`` and its position alone.
    """

    def __init__(
        self,
        source: Source,
        sieve: Sieve,
        view: View,
        share: Share,
        seed: int,
        position: int = 0,
        place: Place = Place(),  # noqa: B008
    ) -> None:
        super().__init__()
        self._source, self._sieve, self._view, self._share = source, sieve, view, share
        self._seed, self._position, self._place = seed, position, place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Endless; raises :class:`CannotStart` where the sieve lets nothing through."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        position = self._position
        for epoch in count(self._place.epoch):
            skip = self._place.taken if epoch == self._place.epoch else 0
            taken = 0
            for raw in self._source.shuffled(self._seed, epoch):
                if self._sieve.reason(raw):
                    continue
                taken += 1
                if taken <= skip:
                    continue
                if self._share.takes(position - self._position, worker, workers):
                    yield self._example(raw.data, position, Place(epoch, taken))
                position += 1
            if not taken:
                raise CannotStart(
                    "no picture of the data is left: all are unreadable or left out by size or "
                    "scores; `train check-data` counts them"
                )

    def _example(self, data: bytes, position: int, place: Place) -> dict[str, Any]:
        rng = np.random.default_rng((self._seed, position))
        try:
            picture, weight = decode(data, max_pixels=MAX_PIXELS), 1.0
        except BadInput:
            # Its place in the batch stays, so that all processes agree on what comes after it.
            picture, weight = np.zeros((1, 1, 3), np.uint8), 0.0
        pixels, encoder = self._view(picture, rng)
        return {
            "pixels": torch.from_numpy(pixels),
            "encoder": torch.from_numpy(encoder),
            "position": position,
            "place": torch.tensor(place),
            "weight": weight,
        }


def noise_for(
    seed: int, positions: Tensor, shape: tuple[int, ...], timesteps: int, zeroed: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What is random in the loss of the examples at ``positions``, from the CPU's generators.

    Noise ``float32 [B, *shape]``, timesteps ``int64 [B]`` and whether the condition is kept,
    ``float32 [B]`` of 0 and 1: the same whichever process has the example, and after a resume.
    """
    noise, steps, kept = [], [], []
    for position in positions.tolist():
        state = np.random.SeedSequence((seed, position, 1)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) >> 1)
        noise.append(torch.randn(shape, generator=generator))
        steps.append(torch.randint(timesteps, (), generator=generator))
        kept.append((torch.rand((), generator=generator) >= zeroed).float())
    return torch.stack(noise), torch.stack(steps), torch.stack(kept)
