"""From an uploaded picture to the image encoder's input, as in the model's training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.parameters import Fit


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
        """
        image = torch.from_numpy(np.require(picture, requirements=["C", "W"])).to(device)
        image = image.permute(2, 0, 1)[None].float() / 255
        image = self._fitted(image, fit)
        return (image - self._channels(self.mean, image)) / self._channels(self.std, image)

    def _fitted(self, image: Tensor, fit: Fit) -> Tensor:
        match fit:
            case Fit.SQUASH:
                return self._resized(image, self.pixels, self.pixels)
            case Fit.CROP:
                return self._resized(_centre_crop(image), self.pixels, self.pixels)
            case Fit.PAD:
                return self._padded(image)

    def _padded(self, image: Tensor) -> Tensor:
        """The whole picture in the middle of a white square, of the encoder's size.

        A square as wide as the picture itself would take gigabytes for a long thin one.
        """
        longest = max(image.shape[-2:])
        height, width = (max(1, round(self.pixels * side / longest)) for side in image.shape[-2:])
        square = image.new_ones(1, 3, self.pixels, self.pixels)
        top, left = (self.pixels - height) // 2, (self.pixels - width) // 2
        square[..., top : top + height, left : left + width] = self._resized(image, height, width)
        return square

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        return functional.interpolate(
            image, (height, width), mode="bicubic", antialias=self.antialias
        )

    @staticmethod
    def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def _centre_crop(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[..., top : top + side, left : left + side]
