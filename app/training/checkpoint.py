"""Writing a checkpoint folder in diffusers' format that this service and diffusers load."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers

from app.pipeline.checkpoint import Parts
from app.pipeline.known import FACTS, Known

_INDEX = {
    "_class_name": "StableDiffusionImageVariationPipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]


def write_checkpoint(folder: Path, parts: Parts, facts: Known, card: str) -> None:
    """Write all ``parts`` to ``folder``, with ``facts`` as ``variations.json``.

    ``model_index.json`` comes last and says that the rest is whole; other files stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "model_index.json"
    index.unlink(missing_ok=True)
    modules = {
        "unet": parts.unet,
        "vae": parts.vae,
        "image_encoder": parts.image_encoder,
        "safety_checker": parts.safety_checker,
        "feature_extractor": parts.feature_extractor,
    }
    for name, module in modules.items():
        if module is not None:
            module.save_pretrained(folder / name)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    (folder / "scheduler").mkdir(exist_ok=True)
    _write(folder / "scheduler" / "scheduler_config.json", parts.scheduler_config)
    _write(folder / FACTS, asdict(facts))
    (folder / "README.md").write_text(card)
    checked = parts.safety_checker is not None
    scheduler = parts.scheduler_config.get("_class_name", "PNDMScheduler")
    _write(
        index,
        {
            **_INDEX,
            "requires_safety_checker": checked,
            "safety_checker": _CHECKER if checked else [None, None],
            "scheduler": ["diffusers", scheduler],
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=path.name == "model_index.json") + "\n")
