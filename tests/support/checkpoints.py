"""Checkpoints with random weights, in the layout that the hub serves them in."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

Kind = Literal["tiny", "sd1"]

SMALL, WIDE = (64, 64), (128, 64)
"""Sizes in pixels that the tiny checkpoint can make."""

UNET: dict[Kind, dict[str, Any]] = {
    "tiny": {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sd1": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
}
_VAE: dict[Kind, dict[str, Any]] = {
    "tiny": {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
    "sd1": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
}
_VISION: dict[Kind, dict[str, Any]] = {
    "tiny": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 24,
    },
    "sd1": {
        "image_size": 224,
        "patch_size": 14,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
    },
}
_CHECKER: dict[Kind, dict[str, Any]] = {"tiny": _VISION["tiny"], "sd1": _VISION["sd1"]}

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "pytorch_model",
    "safety_checker": "pytorch_model",
}


_VAE_ATTENTION_OF_2022 = {
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}


def make_checkpoint(
    folder: Path,
    *,
    kind: Kind = "tiny",
    safetensors: bool = True,
    safety_checker: bool = True,
    seed: int = 0,
) -> Path:
    """Write a whole checkpoint of random weights into ``folder`` and return ``folder``.

    ``tiny`` makes 64×64 pictures in milliseconds; ``sd1`` has the architecture of Stable Diffusion
    1 (5 GB). Without ``safetensors`` the weights are pickles under the names that the hub's have.
    The safety checker's thresholds lie out of reach, so that it flags nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in _modules(kind, safety_checker):
            module.save_pretrained(folder / name)
            if not safetensors:
                _pickle_weights(folder / name, _WEIGHTS[name])
    _scheduler().save_pretrained(folder / "scheduler")
    _feature_extractor(kind).save_pretrained(folder / "feature_extractor")
    _write_index(folder, safety_checker)
    return folder


def flag_everything(folder: Path) -> None:
    """Lower the thresholds of the safety checker in ``folder`` until it flags every picture."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker")
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0)
    checker.save_pretrained(folder / "safety_checker")


def configure(folder: Path, part: str, **changes: object) -> None:
    """Change keys of a part's config in ``folder``; ``None`` takes a key away."""
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(kept))


def enlarge(folder: Path, part: str, weight: str, largest: float) -> None:
    """Scale one weight of a part in ``folder``, saved as safetensors, up to this largest number."""
    [path] = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    wide = weights[weight].double()
    weights[weight] = (wide * (largest / wide.abs().max())).float()
    save_file(weights, path, metadata={"format": "pt"})


def _modules(kind: Kind, safety_checker: bool) -> Any:
    """One part after the other, so that a large one can be let go before the next is made."""
    yield "unet", _rescaled(UNet2DConditionModel(in_channels=4, out_channels=4, **UNET[kind]))
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * len(_VAE[kind]["block_out_channels"]),
        up_block_types=["UpDecoderBlock2D"] * len(_VAE[kind]["block_out_channels"]),
        sample_size=64,
        **_VAE[kind],
    )
    yield "vae", vae
    yield "image_encoder", CLIPVisionModelWithProjection(CLIPVisionConfig(**_VISION[kind]))
    if safety_checker:
        yield "safety_checker", _safety_checker(kind)


def _rescaled(unet: nn.Module) -> nn.Module:
    """Cross-attention loud enough that the condition shows in the output of random weights."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name:
                parameter.mul_(4.0)
    return unet


def _safety_checker(kind: Kind) -> Any:
    vision = _CHECKER[kind]
    text = CLIPTextConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, eos_token_id=1
    )
    checker: Any = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=CLIPVisionConfig(**vision).to_dict(),
            projection_dim=vision["projection_dim"],
        )
    )
    with torch.no_grad():
        for embeds in (checker.concept_embeds, checker.special_care_embeds):
            embeds.normal_()
        for threshold in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
            threshold.fill_(2.0)
    return checker


def _scheduler() -> PNDMScheduler:
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def _feature_extractor(kind: Kind) -> CLIPImageProcessor:
    pixels = _VISION[kind]["image_size"]
    return CLIPImageProcessor(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
    )


def _pickle_weights(folder: Path, name: str) -> None:
    """Pickles as the hub's checkpoint has them, down to the names of 2022."""
    for path in folder.glob("*.safetensors"):
        weights = {_name_of_2022(folder.name, key): v for key, v in load_file(path).items()}
        torch.save(weights, folder / f"{name}.bin")
        path.unlink()


def _name_of_2022(part: str, key: str) -> str:
    if part == "safety_checker":
        return re.sub(r"^vision_model\.", "vision_model.vision_model.", key)
    if part == "vae" and "attentions" in key:
        for new, old in _VAE_ATTENTION_OF_2022.items():
            key = key.replace(new, old)
    return key


def _write_index(folder: Path, safety_checker: bool) -> None:
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index = {
        "_class_name": "StableDiffusionImageVariationPipeline",
        "_diffusers_version": "0.15.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_safety_checker": safety_checker,
        "safety_checker": checker if safety_checker else [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def keep_only_half_precision(folder: Path, parts: Iterable[str]) -> None:
    """Replace the weights of ``parts`` by those of variant ``fp16``, as some repositories have."""
    for part in parts:
        for path in [*(folder / part).glob("*.safetensors"), *(folder / part).glob("*.bin")]:
            pickled = path.suffix == ".bin"
            weights = torch.load(path) if pickled else load_file(path)
            halves = {key: v.half() if v.is_floating_point() else v for key, v in weights.items()}
            target = path.with_suffix(f".fp16{path.suffix}")
            torch.save(halves, target) if pickled else save_file(halves, target, {"format": "pt"})
            path.unlink()
