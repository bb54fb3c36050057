"""From an RGB picture to what the image encoder was trained on."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.parameters import Fit


def preprocess(
    picture: NDArray[np.uint8],
    size: int,
    fit: Fit,
    *,
    antialias: bool,
    mean: Tensor,
    std: Tensor,
) -> Tensor:
    """A picture as the encoder wants it: float32 ``[1, 3, size, size]``, normalised.

    ``picture`` is RGB, uint8 of shape ``[height, width, 3]``; ``mean`` and ``std`` are ``[3]`` for
    values in [0, 1]. Resizing is torch's bicubic, as in the reference's own
    ``transforms.Resize`` on tensors; without ``antialias`` it overshoots [0, 1] at edges and is
    not clipped, again as there.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(_FITS[fit](picture)))
    values = pixels.permute(2, 0, 1).unsqueeze(0).float().div_(255)
    resized = functional.interpolate(
        values, (size, size), mode="bicubic", align_corners=False, antialias=antialias
    )
    return (resized - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def _squash(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture


def _crop(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the middle."""
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _pad(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole picture in the middle of a white square."""
    height, width, _ = picture.shape
    side = max(height, width)
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


_FITS = {Fit.SQUASH: _squash, Fit.CROP: _crop, Fit.PAD: _pad}
