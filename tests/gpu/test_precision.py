"""Half precision on the device against diffusers in float32; float32 is in tests/pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
from app.pipeline.known import DEMO_FOLDER, known
from app.pipeline.selfcheck import largest_deviation
from tests.support.mixed import wanted
from tests.support.pipelines import condition_of, draw, start
from tests.support.reference import Reference

pytestmark = [
    pytest.mark.gpu,
    # diffusers hands tensors to NumPy in ways that NumPy 2 remarks on.
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]

LATENTS, LEVELS = 0.02, 1.0
"""What float16 may be off by: of the norm of the latents, and of 255 levels on average.

On a CPU it was off by 0.13 to 0.62 %, and by 0.09 to 0.27 levels.
"""


@pytest.fixture(scope="module")
def reference(device: str) -> Reference:
    return Reference(DEMO_FOLDER, device, antialias=known("demo", DEMO_FOLDER).antialias)


@pytest.fixture(scope="module")
def half(device: str) -> Pipeline:
    return Pipeline.load(ModelConfig("demo", device=device, dtype="float16"))


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("scheduler", Scheduler)
def test_float16_is_near_the_reference_in_float32(
    half: Pipeline, reference: Reference, scheduler: Scheduler
) -> None:
    width, height = half.model.sizes[0]
    parameters = replace(wanted(scheduler, n=2, steps=10), width=width, height=height)
    samples = start(half, draw(1), parameters)
    while samples[0].steps_left:
        half.step(samples, 4)
    expected = reference.latents(draw(1), parameters)
    latents = torch.stack([sample.latents.cpu() for sample in samples])
    off = float((latents - expected).norm() / expected.norm())
    pictures, _ = reference.pictures(expected)
    levels = 0.0
    for decoded, picture in zip(half.decode(samples), pictures, strict=True):
        assert decoded.picture is not None
        levels = max(levels, float(np.abs(decoded.picture.astype(int) - picture).mean()))
    print(f"{scheduler}: latents off by {off:.2%}, pictures by {levels:.2f} levels")
    assert off < LATENTS
    assert levels < LEVELS


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_worker_on_the_device_passes_its_own_check(device: str, dtype: str) -> None:
    pipeline = Pipeline.load(ModelConfig("demo", device=device, dtype=dtype))
    found = dict(pipeline.deviations())
    print(f"{dtype} on {device}: {found}")
    assert all(off < largest_deviation(pipeline.dtype(part)) for part, off in found.items())


def test_auto_takes_the_device(device: str) -> None:
    if device.startswith("cuda"):
        chosen = Pipeline.load(ModelConfig("demo"))
        assert (chosen.model.device, chosen.model.dtype) == ("cuda", "float16")
        condition = condition_of(chosen, draw(1), chosen.model.defaults())
        assert chosen.generate(condition, chosen.model.defaults())[0].error is None
