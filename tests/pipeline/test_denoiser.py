"""The UNet call of a step."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from app.pipeline.denoiser import eager
from app.pipeline.folding import TimeFold, fold


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_it_predicts_in_float32_what_the_unet_gives_in_its_own_numbers(
    tiny_folder: Path, dtype: torch.dtype
) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_folder / "unet", torch_dtype=dtype).eval()
    condition = fold(unet)
    latents, timesteps = torch.randn(3, 4, 16, 16), torch.tensor([999.0, 500.5, 1.0])
    conditions = torch.stack([condition(torch.randn(24)) for _ in range(3)])
    expected = unet(latents.to(dtype), timesteps, encoder_hidden_states=conditions).sample
    times = TimeFold(unet)(timesteps)
    outputs = eager(unet)(latents, times, conditions)
    assert outputs.dtype == torch.float32
    assert outputs.shape == latents.shape
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert float((outputs - expected.float()).abs().max()) < tolerance
