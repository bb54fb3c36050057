"""Pictures on their way to the image encoder."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from app.parameters import Fit
from app.pipeline.preprocessing import Preprocessing

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Draw = Callable[[int], NDArray[np.uint8]]


def preprocessing(antialias: bool = False, pixels: int = 32) -> Preprocessing:
    return Preprocessing(pixels, antialias, MEAN, STD)


def unnormalised(pixels: Tensor) -> Tensor:
    return pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (900, 700), (3, 5), (1, 2000)])
@pytest.mark.parametrize("antialias", [False, True])
def test_squash_is_what_the_models_training_did(
    draw: Draw, antialias: bool, shape: tuple[int, int]
) -> None:
    """``ToTensor``, ``Resize((n, n), BICUBIC, antialias)``, ``Normalize``, written out in torch."""
    picture = np.resize(draw(1), (*shape, 3))
    expected = functional.interpolate(
        torch.from_numpy(picture).permute(2, 0, 1)[None].to(torch.float32).div(255),
        size=(32, 32),
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    expected = expected.sub(torch.tensor(MEAN)[:, None, None]).div(torch.tensor(STD)[:, None, None])
    given = preprocessing(antialias)(picture, Fit.SQUASH)
    assert given.shape == (1, 3, 32, 32)
    assert torch.allclose(given, expected, atol=2e-5)


def test_with_antialias_it_is_close_to_pillows_bicubic(draw: Draw) -> None:
    picture = draw(2)
    pillow = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    given = unnormalised(preprocessing(antialias=True)(picture, Fit.SQUASH)[0])
    expected = torch.from_numpy(pillow.copy()).permute(2, 0, 1) / 255
    assert float((given.clamp(0, 1) - expected).abs().max()) < 2 / 255


def test_without_antialias_it_is_not(draw: Draw) -> None:
    smooth, rough = (preprocessing(a)(draw(2), Fit.SQUASH) for a in (True, False))
    assert float((smooth - rough).abs().mean()) > 0.05


def test_crop_takes_the_middle_square(draw: Draw) -> None:
    picture = draw(3)
    middle = picture[:, 10:60]
    assert picture.shape == (50, 70, 3)
    assert torch.equal(
        preprocessing()(picture, Fit.CROP), preprocessing()(middle.copy(), Fit.SQUASH)
    )


def test_pad_puts_the_whole_picture_on_white(draw: Draw) -> None:
    tall = draw(4).transpose(1, 0, 2)
    given = (unnormalised(preprocessing(pixels=70)(tall, Fit.PAD)[0]) * 255).round().to(torch.uint8)
    assert (given[:, :, :10] == 255).all()
    assert (given[:, :, 60:] == 255).all()
    inside = given[:, :, 10:60]
    assert torch.equal(inside.permute(1, 2, 0), torch.from_numpy(tall.copy()))


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (200, 1)])
def test_the_smallest_pictures_pass(fit: Fit, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 200, np.uint8)
    given = preprocessing()(picture, fit)
    assert given.shape == (1, 3, 32, 32)
    assert given.isfinite().all()


def test_a_long_thin_picture_is_padded_without_a_square_of_its_length() -> None:
    """A square of 60,000 by 60,000 would be 43 GB: more than a machine that runs this has."""
    given = preprocessing()(np.zeros((1, 60_000, 3), np.uint8), Fit.PAD)
    assert given.shape == (1, 3, 32, 32)


def test_a_large_picture_is_never_held_in_floats() -> None:
    """12 megapixels in float32 would be 144 MB; a process of its own tells the peak."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    picture = 3 * 12_000_000
    assert picture < int(run.stdout) < picture + 48 * 2**20


PEAK = """
import re
from pathlib import Path
import numpy as np
from app.parameters import Fit
from app.pipeline.preprocessing import Preprocessing

def peak():
    return 1024 * int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def prepare(picture):
    for antialias in (False, True):
        preprocessing = Preprocessing(224, antialias, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        for fit in Fit:
            assert preprocessing(picture, fit).isfinite().all()

prepare(np.zeros((300, 400, 3), np.uint8))
before = peak()
pixels = np.full(3 * 12_000_000, 200, np.uint8)
for height, width in (3000, 4000), (4000, 3000), (200, 60_000), (60_000, 200):
    prepare(pixels.reshape(height, width, 3))
print(peak() - before)
"""


def test_a_square_picture_is_the_same_whatever_the_fit(draw: Draw) -> None:
    square = draw(5)[:, :50].copy()
    squashed, cropped, padded = (preprocessing()(square, fit) for fit in Fit)
    assert torch.equal(squashed, cropped)
    assert torch.equal(squashed, padded)
