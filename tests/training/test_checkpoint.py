"""The checkpoint that comes with the package."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImageVariationPipeline
from PIL import Image

from app.training.export import CHECKPOINT
from app.training.world import BLOCKED_KIND, KINDS, SIZE, draw, sample_held_out


@pytest.fixture(scope="module")
def reference() -> StableDiffusionImageVariationPipeline:
    pipeline = StableDiffusionImageVariationPipeline.from_pretrained(CHECKPOINT)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_is_small_and_holds_no_pickles() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}


def test_the_reference_pipeline_draws_with_it(
    reference: StableDiffusionImageVariationPipeline,
) -> None:
    rng = np.random.default_rng(3)
    picture = Image.fromarray(draw(sample_held_out(1, rng)[0], rng))

    shown = reference(
        picture, num_inference_steps=5, generator=torch.Generator().manual_seed(0)
    ).images[0]

    assert shown.size == (SIZE, SIZE)
    assert np.asarray(shown).std() > 10


def test_the_safety_checker_stops_the_blocked_kind_and_little_else(
    reference: StableDiffusionImageVariationPipeline,
) -> None:
    rng = np.random.default_rng(4)
    stopped = {}
    for blocked in (False, True):
        pictures = [draw(scene, rng) for scene in sample_held_out(50, rng, blocked=blocked)]
        pixels = reference.feature_extractor(
            [Image.fromarray(picture) for picture in pictures], return_tensors="pt"
        ).pixel_values
        handed = np.zeros((len(pictures), 1, 1, 3), dtype=np.float32)
        with torch.inference_mode():
            stopped[blocked] = sum(reference.safety_checker(clip_input=pixels, images=handed)[1])

    assert stopped[True] >= 47, BLOCKED_KIND
    assert stopped[False] <= 2, KINDS
