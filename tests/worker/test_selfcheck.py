"""A worker that holds what its device computes against float32 on the CPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.errors import CheckpointError
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.pipeline.checkpoint import Parts
from app.pipeline.selfcheck import largest_deviation
from app.worker.selfcheck import check


def load(folder: Path, dtype: str) -> tuple[Pipeline, Parts]:
    pipeline = Pipeline.load(ModelConfig(str(folder), device="cpu", dtype=dtype))
    return pipeline, pipeline._parts


@pytest.mark.parametrize(
    ("dtype", "rounded"), [("float16", {"unet", "vae"}), ("bfloat16", {"unet"})]
)
def test_rounding_alone_is_far_within_the_bound(
    tiny_checkpoint: Path, dtype: str, rounded: set[str]
) -> None:
    pipeline, _ = load(tiny_checkpoint, dtype)
    found = dict(pipeline.deviations())
    assert set(found) == rounded
    bound = largest_deviation(getattr(torch, dtype))
    assert all(0 < deviation < bound / 5 for deviation in found.values())
    check(pipeline)


def test_float32_on_the_cpu_is_not_held_against_itself(tiny_checkpoint: Path) -> None:
    pipeline, _ = load(tiny_checkpoint, "float32")
    assert dict(pipeline.deviations()) == {}


def test_it_leaves_the_weights_as_they_are(tiny_checkpoint: Path) -> None:
    pipeline, parts = load(tiny_checkpoint, "float16")
    for part in (parts.unet, parts.vae):
        before = {name: weight.clone() for name, weight in part.state_dict().items()}
        check(pipeline)
        after = part.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_unet_that_computes_something_else_is_refused(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = load(tiny_checkpoint, "float16")
    right = pipeline._unet.denoiser

    def wrong(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        return right(latents, timesteps, conditions) * 1.05

    monkeypatch.setattr(pipeline._unet, "denoiser", wrong)
    with pytest.raises(CheckpointError) as refusal:
        check(pipeline)
    assert "the unet on cpu in float16 is off by 5.0% from the same" in refusal.value.message
    assert "VARIATIONS_DTYPE=float32 may help" in refusal.value.message


def test_a_vae_that_computes_something_else_is_refused(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, parts = load(tiny_checkpoint, "float16")
    forward = type(parts.vae.decoder).forward

    def wrong_in_half(decoder: Any, sample: Tensor, *more: Any) -> Tensor:
        off = 1.5 if sample.dtype == torch.float16 else 1.0
        images: Tensor = forward(decoder, sample, *more) * off
        return images

    monkeypatch.setattr(type(parts.vae.decoder), "forward", wrong_in_half)
    with pytest.raises(CheckpointError, match=r"the vae on cpu in float16 is off by 50\.0%"):
        check(pipeline)


def test_a_remedy_on_a_gpu_is_another_driver_or_the_cpu(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = load(tiny_checkpoint, "float32")
    monkeypatch.setattr(pipeline, "model", replace(pipeline.model, device="cuda:0"))
    monkeypatch.setattr(pipeline, "deviations", lambda: iter([("vae", 0.4)]))
    with pytest.raises(CheckpointError) as refusal:
        check(pipeline)
    assert "the vae on cuda:0 in float32 is off by 40.0%" in refusal.value.message
    assert "another driver or build of torch or VARIATIONS_DEVICE=cpu" in refusal.value.message
