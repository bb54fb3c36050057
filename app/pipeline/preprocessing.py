"""From an uploaded picture to the image encoder's input, as in the model's training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.parameters import Fit

_STRIP_PIXELS = 2**18


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``pixels`` is the side of the encoder's input; ``mean`` and ``std`` are of RGB in [0, 1]."""

    pixels: int
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, image_encoder: Any, feature_extractor: Any, antialias: bool) -> "Preprocessing":
        """That of an encoder and the feature extractor that lies beside it."""
        return cls(
            image_encoder.config.image_size,
            antialias,
            tuple(feature_extractor.image_mean),
            tuple(feature_extractor.image_std),
        )

    def __call__(
        self, picture: NDArray[np.uint8], fit: Fit, device: torch.device | str = "cpu"
    ) -> Tensor:
        """``uint8 [H, W, 3]`` to ``float32 [1, 3, pixels, pixels]``, normalised.

        Bicubic on floats and not clamped afterwards, as torchvision's ``Resize`` of a tensor.
        No float copy of the whole picture is ever made: a large one would take gigabytes.
        """
        image = self._fitted(picture, fit, torch.device(device))
        return (image - self._channels(self.mean, image)) / self._channels(self.std, image)

    def _fitted(self, picture: NDArray[np.uint8], fit: Fit, device: torch.device) -> Tensor:
        match fit:
            case Fit.SQUASH:
                return self._resized(picture, self.pixels, self.pixels, device)
            case Fit.CROP:
                return self._resized(_centre_crop(picture), self.pixels, self.pixels, device)
            case Fit.PAD:
                return self._padded(picture, device)

    def _padded(self, picture: NDArray[np.uint8], device: torch.device) -> Tensor:
        """The whole picture in the middle of a white square, of the encoder's size.

        A square as wide as the picture itself would take gigabytes for a long thin one.
        """
        sides = picture.shape[:2]
        height, width = (max(1, round(self.pixels * side / max(sides))) for side in sides)
        square = torch.ones(1, 3, self.pixels, self.pixels, device=device)
        top, left = (self.pixels - height) // 2, (self.pixels - width) // 2
        resized = self._resized(picture, height, width, device)
        square[..., top : top + height, left : left + width] = resized
        return square

    def _resized(
        self, picture: NDArray[np.uint8], height: int, width: int, device: torch.device
    ) -> Tensor:
        """``float32 [1, 3, height, width]``, in [0, 1] but for what bicubic overshoots."""
        resize = _averaged if self.antialias else _sampled
        return resize(picture, height, width, device)

    @staticmethod
    def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def _centre_crop(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _sampled(picture: NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
    """Bicubic without antialias reads 4 × 4 pixels for each of the result: only those are taken."""
    rows, row_weights = _taps(picture.shape[0], height)
    columns, column_weights = _taps(picture.shape[1], width)
    taken = picture[np.ix_(rows.flatten().numpy(), columns.flatten().numpy())]
    values = _floats(taken, device).view(1, 3, height, 4, width, 4)
    across = (values * column_weights.to(device)).sum(dim=5)
    return (across * row_weights.to(device)[:, :, None]).sum(dim=3)


def _taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Which pixels make each of the result along one side, and their weights, each [target, 4].

    Keys' kernel with a = −0.75, pixels beyond the edge repeated: torch's ``upsample_bicubic2d``.
    """
    place = (torch.arange(target, dtype=torch.float32) + 0.5) * (source / target) - 0.5
    before = place.floor()
    beyond = (place - before)[:, None]
    distances = torch.cat((beyond + 1, beyond, 1 - beyond, 2 - beyond), dim=1)
    indices = before.long()[:, None] + torch.arange(-1, 3)
    return indices.clamp(0, source - 1), _keys(distances)


def _keys(distance: Tensor, a: float = -0.75) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)


def _averaged(picture: NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
    """Bicubic with antialias, the longer side first, in strips that lie along it."""
    if picture.shape[0] > picture.shape[1]:
        return _averaged(picture.transpose(1, 0, 2), width, height, device).transpose(2, 3)
    narrow = torch.empty(1, 3, picture.shape[0], width, device=device)
    rows = max(1, _STRIP_PIXELS // picture.shape[1])
    for top in range(0, picture.shape[0], rows):
        strip = _floats(picture[top : top + rows], device)
        narrow[..., top : top + rows, :] = _interpolated(strip, strip.shape[2], width)
    return _interpolated(narrow, height, width)


def _interpolated(image: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(image, (height, width), mode="bicubic", antialias=True)


def _floats(picture: NDArray[np.uint8], device: torch.device) -> Tensor:
    """``uint8 [H, W, 3]`` to ``float32 [1, 3, H, W]`` in [0, 1]."""
    pixels = torch.from_numpy(np.require(picture, requirements=["C", "W"])).to(device)
    return pixels.permute(2, 0, 1)[None].float().div_(255)
