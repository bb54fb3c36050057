"""From an uploaded picture to the image encoder's input, as in the model's training, and to the
output's size, where denoising starts from it.

Equal to torch's bicubic ``interpolate`` of a float tensor, not clamped afterwards: to the bit
without antialias, and with it to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.parameters import EncoderInput, Fit, Size
from app.pictures import Picture

Floats = NDArray[np.float32]

_STRIP_PIXELS = 2**18
_BAND_RESULTS = 16


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``side`` is that of the encoder's input; ``mean`` and ``std`` are of RGB in [0, 1]."""

    side: int
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, picture: Picture, fit: Fit) -> EncoderInput:
        """``uint8 [H, W, 3]`` to ``float32 [3, side, side]``, normalised.

        No float copy of the whole picture is ever made: a large one would take gigabytes.
        """
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        normalised = (self._fitted(picture, fit) - mean) / std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def _fitted(self, picture: Picture, fit: Fit) -> Floats:
        resize = _averaged if self.antialias else _sampled
        return _fitted(picture, (self.side, self.side), fit, resize)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture as the encoder takes it, and, where it is started from, at the output's size."""

    pixels: EncoderInput
    picture: Picture | None


def at_size(picture: Picture, size: Size, fit: Fit) -> Picture:
    """The picture in the output's size, resized by bicubic with antialias."""
    levels = _fitted(picture, size, fit, _averaged).clip(0, 1) * 255
    return levels.round().astype(np.uint8)


Resize = Callable[[Picture, int, int], Floats]
"""A picture to ``float32 [height, width, 3]``."""


def _fitted(picture: Picture, size: Size, fit: Fit, resize: Resize) -> Floats:
    """``float32 [height, width, 3]``, in [0, 1] but for what bicubic overshoots."""
    width, height = size
    match fit:
        case Fit.SQUASH:
            return resize(picture, height, width)
        case Fit.CROP:
            return resize(_centre_crop(picture, size), height, width)
        case Fit.PAD:
            return _padded(picture, size, resize)


def _padded(picture: Picture, size: Size, resize: Resize) -> Floats:
    """The whole picture in the middle of white, of that size.

    One as wide as the picture itself would take gigabytes for a long thin one.
    """
    width, height = _inside(size, picture)
    padded = np.ones((size[1], size[0], 3), np.float32)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    padded[top : top + height, left : left + width] = resize(picture, height, width)
    return padded


def _inside(size: Size, picture: Picture) -> Size:
    """The largest size within ``size`` of the shape of the picture."""
    high, wide = picture.shape[:2]
    width, height = size
    if wide * height >= high * width:
        return width, max(1, round(width * high / wide))
    return max(1, round(height * wide / high)), height


def _centre_crop(picture: Picture, size: Size) -> Picture:
    """The largest part of the shape of ``size``, from the middle."""
    high, wide = picture.shape[:2]
    width, height = size
    if wide * height >= high * width:
        width, height = max(1, round(high * width / height)), high
    else:
        width, height = wide, max(1, round(wide * height / width))
    top, left = (high - height) // 2, (wide - width) // 2
    return picture[top : top + height, left : left + width]


def _sampled(picture: Picture, height: int, width: int) -> Floats:
    """Bicubic without antialias reads 4 × 4 pixels for each of the result: only those are taken.

    The last bit depends on the order of the sums, which is torch's.
    """
    rows, row_weights = _taps(picture.shape[0], height)
    columns, column_weights = _taps(picture.shape[1], width)
    pixels = picture.view("V3")[..., 0]  # numpy is slow at picking three bytes, not at one item
    taken = pixels[np.ix_(rows.ravel(), columns.T.ravel())].view(np.uint8)
    across = np.zeros((4 * height, 3 * width), np.float32)
    for values, weights in zip(np.hsplit(taken, 4), column_weights.T, strict=True):
        across += values.astype(np.float32) / np.float32(255) * weights.repeat(3)
    resized = np.zeros((height, 3 * width), np.float32)
    for tap, weights in enumerate(row_weights.T):
        resized += across[tap::4] * weights[:, None]
    return resized.reshape(height, width, 3)


def _taps(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Which pixels make each of the result along one side, and their weights, each [target, 4].

    Keys' kernel with a = −0.75, pixels beyond the edge repeated: torch's ``upsample_bicubic2d``.
    """
    place = (np.arange(target, dtype=np.float32) + 0.5) * (source / target) - 0.5
    before = np.floor(place)
    beyond = (place - before)[:, None]
    distances = np.concatenate((beyond + 1, beyond, 1 - beyond, 2 - beyond), axis=1)
    indices = before.astype(np.int64)[:, None] + np.arange(-1, 3)
    return indices.clip(0, source - 1), _keys(distances)


def _keys(distance: Floats, a: float = -0.75) -> Floats:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


@dataclass(frozen=True, slots=True)
class _Band:
    """Neighbours among the results along one side, and the pixels that they are made of.

    ``weights`` is [pixels, results].
    """

    pixels: slice
    results: slice
    weights: NDArray[np.float64]


def _averaged(picture: Picture, height: int, width: int) -> Floats:
    """Bicubic with antialias, the longer side first, in strips that lie along it.

    Summed in float64: each processor's matrix product has an order of its own, and once rounded to
    float32 that is seen no more.
    """
    if picture.shape[0] > picture.shape[1]:
        return _averaged(picture.transpose(1, 0, 2), width, height).transpose(1, 0, 2)
    narrow = np.empty((3 * picture.shape[0], width), np.float32)
    bands = _bands(picture.shape[1], width)
    rows = max(1, _STRIP_PIXELS // picture.shape[1])
    for top in range(0, picture.shape[0], rows):
        strip = picture[top : top + rows].transpose(0, 2, 1)
        lines = np.ascontiguousarray(strip, np.float64).reshape(-1, picture.shape[1])
        place = slice(3 * top, 3 * top + len(lines))
        for band in bands:
            narrow[place, band.results] = lines[:, band.pixels] @ band.weights
    fitted = np.empty((height, 3 * width), np.float32)
    for band in _bands(picture.shape[0], height):
        lines = narrow.reshape(-1, 3 * width)[band.pixels].astype(np.float64)
        fitted[band.results] = band.weights.T @ lines
    return fitted.reshape(height, 3, width).transpose(0, 2, 1) / np.float32(255)


def _bands(source: int, target: int) -> list[_Band]:
    """Keys' kernel with a = −0.5, widened where the picture shrinks and cut off at its edges.

    Computed in float32, as torch's ``_upsample_bicubic2d_aa``.
    """
    scale = np.float32(source / target)
    stretch = max(scale, np.float32(1))
    centres = scale * (np.arange(target, dtype=np.float32) + 0.5)
    first = (centres - 2 * stretch + 0.5).astype(np.int64).clip(min=0)
    end = (centres + 2 * stretch + 0.5).astype(np.int64).clip(max=source)
    bands = []
    for start in range(0, target, _BAND_RESULTS):
        results = slice(start, min(start + _BAND_RESULTS, target))
        pixels = np.arange(first[start], end[results.stop - 1])[:, None]
        distances = np.abs((pixels.astype(np.float32) - centres[results] + 0.5) / stretch)
        read = (pixels >= first[results]) & (pixels < end[results])
        weights = _keys(distances.clip(max=2), a=-0.5) * read
        weights /= weights.sum(axis=0)
        read_by_any = slice(first[start], end[results.stop - 1])
        bands.append(_Band(read_by_any, results, weights.astype(np.float64)))
    return bands
