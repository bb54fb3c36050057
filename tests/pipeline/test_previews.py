"""Previews of unfinished samples, of the built-in checkpoint: random weights show nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from app.errors import CheckpointError
from app.parameters import Condition, ModelConfig, Scheduler
from app.pictures import Picture
from app.pipeline import Pipeline, Sample
from app.pipeline.previews import BLOCK, Previewer
from tests.support.pictures import quarters


@pytest.fixture(scope="module")
def demo(device: str) -> Pipeline:
    return Pipeline.load(ModelConfig("demo", device=device, dtype="float32"))


@pytest.fixture(scope="module")
def samples(demo: Pipeline) -> list[Sample]:
    """One of each solver, two steps before its end."""
    pixels = demo.preprocessing(quarters(), demo.model.fit)
    rows = demo.condition(Condition.guided(pixels, demo.model.guidance_scale))
    plain = demo.model.defaults(num_inference_steps=8, seed=3)
    started = [demo.start(rows, replace(plain, scheduler=each), 0) for each in Scheduler]
    while late := [one for one in started if one.steps_left > 2]:
        demo.step(late)
    return started


def likeness(preview: Picture, picture: Picture) -> float:
    """The correlation of a preview with a picture made as small."""
    side = picture.shape[0] // preview.shape[0]
    small = picture.reshape(preview.shape[0], side, preview.shape[1], side, 3).mean((1, 3))
    return float(np.corrcoef(small.ravel(), preview.ravel())[0, 1])


def test_a_preview_of_every_solver_looks_like_its_picture(
    demo: Pipeline, samples: list[Sample]
) -> None:
    previews = demo.preview(samples).wait()
    finished = [replace(one) for one in samples]
    while left := [one for one in finished if one.steps_left]:
        demo.step(left)
    pictures = [decoded.picture for decoded in demo.decode(finished)]
    for scheduler, preview, picture in zip(Scheduler, previews, pictures, strict=True):
        assert picture is not None
        assert preview.dtype == np.uint8
        assert preview.shape == (*(BLOCK * n for n in samples[0].latents.shape[1:]), 3)
        assert likeness(preview, picture) > 0.8, scheduler


def test_a_preview_changes_nothing(demo: Pipeline, samples: list[Sample]) -> None:
    before = [sample.history.clone() for sample in samples]
    first, again = (np.stack(demo.preview(samples).wait()) for _ in range(2))
    assert (first == again).all()
    assert all(torch.equal(a, b.history) for a, b in zip(before, samples, strict=True))


def test_a_vae_that_breaks_numbers_cannot_be_previewed() -> None:
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4)
    torch.nn.init.constant_(vae.decoder.conv_out.bias, torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        Previewer(vae)
