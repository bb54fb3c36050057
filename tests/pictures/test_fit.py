"""Pictures on their way to the image encoder."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from app.parameters import EncoderInput, Fit
from app.pictures import Picture
from app.pictures.fit import Preprocessing, at_size
from tests.support.pictures import quarters

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

SHAPES = [(50, 70), (70, 50), (900, 700), (3, 5), (1, 2000), (601, 333), (32, 32), (1, 1), (40, 1)]


def drawn(height: int, width: int) -> Picture:
    """Noise: nothing is harder to make smaller."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def preprocessing(antialias: bool = False, side: int = 32) -> Preprocessing:
    return Preprocessing(side, antialias, MEAN, STD)


def channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def unnormalised(given: EncoderInput) -> Tensor:
    return torch.from_numpy(given) * channels(STD) + channels(MEAN)


def by_torch(picture: Picture, antialias: bool) -> NDArray[np.float32]:
    """``ToTensor``, ``Resize((32, 32), BICUBIC, antialias)``, ``Normalize``, written out."""
    resized = functional.interpolate(
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(torch.float32).div(255),
        size=(32, 32),
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    return resized[0].sub(channels(MEAN)).div(channels(STD)).numpy()


def sampled_by_torch(picture: Picture) -> NDArray[np.float32]:
    """Bicubic from 4 × 4 pixels for each of the result, in the order of torch's own sums."""

    def taps(source: int) -> tuple[NDArray[np.int64], Tensor]:
        place = (torch.arange(32, dtype=torch.float32) + 0.5) * (source / 32) - 0.5
        beyond = (place - place.floor())[:, None]
        distance = torch.cat((beyond + 1, beyond, 1 - beyond, 2 - beyond), dim=1)
        near = (1.25 * distance - 2.25) * distance * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        indices = place.floor().long()[:, None] + torch.arange(-1, 3)
        return indices.clamp(0, source - 1).flatten().numpy(), torch.where(distance <= 1, near, far)

    (rows, down), (columns, across) = (taps(side) for side in picture.shape[:2])
    taken = torch.from_numpy(picture[np.ix_(rows, columns)]).permute(2, 0, 1).float().div(255)
    lines = (taken.view(3, 32, 4, 32, 4) * across).sum(dim=4)
    resized = (lines * down[:, :, None]).sum(dim=2)
    return resized.sub(channels(MEAN)).div(channels(STD)).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("antialias", "most"), [(False, 2e-5), (True, 1e-5)])
def test_squash_is_what_the_models_training_did(
    antialias: bool, most: float, shape: tuple[int, int]
) -> None:
    picture = drawn(*shape)
    given = preprocessing(antialias)(picture, Fit.SQUASH)
    assert given.shape == (3, 32, 32)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, by_torch(picture, antialias), rtol=0, atol=most)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_antialias_it_is_equal_to_torch_to_the_bit(shape: tuple[int, int]) -> None:
    picture = drawn(*shape)
    np.testing.assert_array_equal(
        preprocessing()(picture, Fit.SQUASH), sampled_by_torch(picture), strict=True
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("fit", Fit)
def test_pixels_may_lie_in_memory_in_any_order(fit: Fit, antialias: bool) -> None:
    picture = drawn(61, 90)[::-2, ::3].transpose(1, 0, 2)
    prepare = preprocessing(antialias)
    np.testing.assert_array_equal(prepare(picture, fit), prepare(picture.copy(), fit))


def test_with_antialias_it_is_close_to_pillows_bicubic() -> None:
    picture = drawn(50, 70)
    pillow = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    given = unnormalised(preprocessing(antialias=True)(picture, Fit.SQUASH))
    expected = torch.from_numpy(pillow.copy()).permute(2, 0, 1) / 255
    assert float((given.clamp(0, 1) - expected).abs().max()) < 2 / 255


def test_without_antialias_it_is_not() -> None:
    smooth, rough = (preprocessing(a)(drawn(50, 70), Fit.SQUASH) for a in (True, False))
    assert float(np.abs(smooth - rough).mean()) > 0.05


def test_crop_takes_the_middle_square() -> None:
    picture = drawn(50, 70)
    middle = picture[:, 10:60]
    assert picture.shape == (50, 70, 3)
    assert np.array_equal(
        preprocessing()(picture, Fit.CROP), preprocessing()(middle.copy(), Fit.SQUASH)
    )


def test_pad_puts_the_whole_picture_on_white() -> None:
    tall = drawn(50, 70).transpose(1, 0, 2)
    given = (unnormalised(preprocessing(side=70)(tall, Fit.PAD)) * 255).round().to(torch.uint8)
    assert (given[:, :, :10] == 255).all()
    assert (given[:, :, 60:] == 255).all()
    inside = given[:, :, 10:60]
    assert np.array_equal(inside.permute(1, 2, 0), tall)


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (200, 1)])
def test_the_smallest_pictures_pass(fit: Fit, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 200, np.uint8)
    given = preprocessing()(picture, fit)
    assert given.shape == (3, 32, 32)
    assert np.isfinite(given).all()


def test_a_long_thin_picture_is_padded_without_a_square_of_its_length() -> None:
    """A square of 60,000 by 60,000 would be 43 GB: more than a machine that runs this has."""
    given = preprocessing()(np.zeros((1, 60_000, 3), np.uint8), Fit.PAD)
    assert given.shape == (3, 32, 32)


def test_a_large_picture_is_never_held_in_floats() -> None:
    """12 megapixels in float32 would be 144 MB; a process of its own tells the peak."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    picture = 3 * 12_000_000
    assert picture < int(run.stdout) < picture + 48 * 2**20


PEAK = """
import re
from pathlib import Path
import numpy as np
from app.parameters import EncoderInput, Fit
from app.pictures import Picture
from app.pictures.fit import Preprocessing

def peak():
    return 1024 * int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def prepare(picture):
    for antialias in (False, True):
        preprocessing = Preprocessing(224, antialias, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        for fit in Fit:
            assert np.isfinite(preprocessing(picture, fit)).all()

prepare(np.zeros((300, 400, 3), np.uint8))
before = peak()
pixels = np.full(3 * 12_000_000, 200, np.uint8)
for height, width in (3000, 4000), (4000, 3000), (200, 60_000), (60_000, 200):
    prepare(pixels.reshape(height, width, 3))
print(peak() - before)
"""


def test_a_square_picture_is_the_same_whatever_the_fit() -> None:
    square = drawn(50, 70)[:, :50].copy()
    squashed, cropped, padded = (preprocessing()(square, fit) for fit in Fit)
    assert np.array_equal(squashed, cropped)
    assert np.array_equal(squashed, padded)


_DIGEST = """
import hashlib
import numpy as np
from app.parameters import Fit
from app.pictures.fit import Preprocessing
picture = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
fitted = Preprocessing(224, True, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(picture, Fit.SQUASH)
print(hashlib.sha256(fitted.tobytes()).hexdigest())
"""


def test_the_result_is_the_same_whichever_kernels_multiply_matrices() -> None:
    """OpenBLAS takes those of the processor, or of the one that this variable names."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | {"OPENBLAS_CORETYPE": core},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for core in ("Prescott", "Haswell")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (300, 200)])
def test_at_the_outputs_size_a_picture_is_as_pillow_resizes_it(size: tuple[int, int]) -> None:
    picture = quarters((120, 90))
    image = Image.fromarray(picture)
    squashed = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    assert np.abs(at_size(picture, size, Fit.SQUASH).astype(int) - squashed).max() <= 1
    cropped = at_size(picture, size, Fit.CROP)
    fitted = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    assert np.abs(cropped.astype(int) - np.asarray(fitted)).mean() < 1
    padded = at_size(picture, size, Fit.PAD)
    white = (padded == 255).all(axis=2)
    width, height = size
    shown = min(width / 120, height / 90) ** 2 * 120 * 90 / (width * height)
    assert white.mean() == pytest.approx(1 - shown, abs=0.02)
