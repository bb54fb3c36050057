"""Cross-attention over one token is a constant, and what comes of a timestep another."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from app.errors import CheckpointError
from app.pipeline.folding import TimeFold, fold


@pytest.fixture(scope="module")
def unet(tiny_folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(tiny_folder / "unet").eval()


@torch.no_grad()
def test_a_folded_unet_gives_what_it_gave(unet: UNet2DConditionModel) -> None:
    folded = copy.deepcopy(unet)
    condition = fold(folded)
    latents, tokens = torch.randn(3, 4, 16, 16), 5 * torch.randn(3, 24)
    timesteps = torch.tensor([999.0, 500.5, 1.0])
    tokens[1] = 0
    conditions = torch.stack([condition(token) for token in tokens])
    assert conditions.shape[:2] == (3, 1)
    before = unet(latents, timesteps, encoder_hidden_states=tokens[:, None]).sample
    after = folded(latents, timesteps, encoder_hidden_states=conditions).sample
    assert float((before - after).abs().max()) < 1e-5
    without = folded(latents, timesteps, encoder_hidden_states=0 * conditions).sample
    assert float((before - without).abs().max()) > 0.1


def test_the_zero_condition_is_the_biases_of_the_output_layers(unet: UNet2DConditionModel) -> None:
    biases = [
        module.to_out[0].bias for name, module in unet.named_modules() if name.endswith("attn2")
    ]
    condition = fold(copy.deepcopy(unet))(torch.zeros(24))
    assert torch.equal(condition[0].sort().values, torch.cat(biases).sort().values)


def test_a_folded_unet_is_smaller(unet: UNet2DConditionModel) -> None:
    folded = copy.deepcopy(unet)
    fold(folded)
    assert not [name for name, _ in folded.named_parameters() if "attn2" in name]


@torch.no_grad()
def test_a_unet_without_its_time_embedding_gives_what_it_gave(unet: UNet2DConditionModel) -> None:
    folded = copy.deepcopy(unet)
    fold_time = TimeFold(folded)
    assert not [name for name, _ in folded.named_parameters() if "time_embedding" in name]
    latents, tokens = torch.randn(3, 4, 16, 16), torch.randn(3, 1, 24)
    timesteps = torch.tensor([999.0, 500.5, 1.0])
    before = unet(latents, timesteps, tokens).sample
    after = folded(latents, 0 * timesteps, tokens, timestep_cond=fold_time(timesteps)).sample
    assert torch.equal(before, after)


def test_another_kind_of_conditioning_is_refused() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )
    with pytest.raises(CheckpointError, match="another way"):
        fold(unet)
