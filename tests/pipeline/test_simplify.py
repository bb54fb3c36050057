"""The folded UNet with fewer kernels computes the same."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from app.pipeline.denoiser import eager
from app.pipeline.folding import TimeFold, fold
from app.pipeline.simplify import simplify


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that are called, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def folded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Inputs]:
    """A folded UNet, and latents, timesteps and conditions for it."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype)
    unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    condition = fold(unet)
    random = torch.Generator().manual_seed(0)
    conditions = [condition(torch.randn(24, generator=random)) for _ in range(3)]
    latents = torch.randn(3, unet.config.in_channels, 16, 16, generator=random)
    return unet, (latents, torch.tensor([999.0, 500.5, 1.0]), torch.stack(conditions))


def predict(unet: Any, given: Inputs) -> torch.Tensor:
    """What a copy of a folded UNet predicts once its timesteps are folded too."""
    own = copy.deepcopy(unet)
    fold_time = TimeFold(own)
    latents, timesteps, conditions = given
    return eager(own)(latents, fold_time(timesteps), conditions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_simplified_unet_gives_what_it_gave(tiny_folder: Path, dtype: torch.dtype) -> None:
    unet, given = folded(tiny_folder, dtype)
    simple = copy.deepcopy(unet)
    simplify(simple)
    expected = predict(unet, given)
    off = (predict(simple, given) - expected).abs().max() / expected.std()
    assert float(off) < (1e-5 if dtype == torch.float32 else 0.1)


@torch.inference_mode()
def test_nothing_is_divided_by_one_and_nothing_projected_twice(tiny_folder: Path) -> None:
    unet, given = folded(tiny_folder)
    with Calls() as before:
        predict(unet, given)
    simplify(unet)
    with Calls() as after:
        predict(unet, given)
    divisions, of_the_time_embedding = before.counts["div"], 1
    assert divisions > of_the_time_embedding
    assert after.counts["div"] == of_the_time_embedding
    assert after.counts["linear"] < before.counts["linear"]
    assert after.counts["silu"] + after.counts["dropout"] < before.counts["silu"]


@torch.inference_mode()
def test_a_step_computes_nothing_of_its_timestep_and_adds_no_bias_of_first_convolutions(
    tiny_folder: Path,
) -> None:
    unet, (latents, timesteps, conditions) = folded(tiny_folder)
    simplify(unet)
    times = TimeFold(unet)(timesteps)
    with Calls() as calls:
        eager(unet)(latents, times, conditions)
    assert not calls.counts.keys() & {"sin", "cos", "exp", "div"}
    names = {name for name, _ in unet.named_parameters()}
    assert {name for name in names if name.endswith("conv1.weight")}
    assert not {name for name in names if name.endswith("conv1.bias")}


@torch.inference_mode()
def test_attention_in_slices_stays_in_slices(tiny_folder: Path) -> None:
    unet, given = folded(tiny_folder)
    expected = predict(unet, given)
    unet.set_attention_slice("max")
    simplify(unet)
    with Calls() as calls:
        outputs = predict(unet, given)
    assert not [name for name in calls.counts if "scaled_dot_product" in name]
    assert float((outputs - expected).abs().max()) < 1e-5


@torch.inference_mode()
def test_other_blocks_are_left_as_they_are() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        resnet_time_scale_shift="scale_shift",
    ).eval()
    fold(unet)
    before = str(unet)
    simplify(unet)
    assert str(unet) == before
