"""The trained parts as one checkpoint folder in diffusers' format."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import diffusers
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from app.parameters import Scheduler
from app.pipeline.known import FACTS, Known
from app.training.denoiser import NOISE
from app.training.encoder import MEAN, STD
from app.training.world import SIZE

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "demo"
"""The folder that ``VARIATIONS_MODEL=demo`` serves."""

DEFAULTS = Known(
    guidance_scale=5.0,
    num_inference_steps=25,
    scheduler=Scheduler.DPMSOLVER,
    antialias=True,
    cpu_dtype="float32",
)
"""The resizing of the encoder's input in training, and the settings that the figures are for."""

_CARD = Path(__file__).with_name("card.md")
_INDEX = {
    "_class_name": "StableDiffusionImageVariationPipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(
    encoder: CLIPVisionModelWithProjection,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    safety_checker: StableDiffusionSafetyChecker,
    folder: Path,
) -> None:
    """Write ``folder`` anew, in half precision; the parts become half precision too."""
    shutil.rmtree(folder, ignore_errors=True)
    parts = {
        "image_encoder": encoder,
        "vae": autoencoder,
        "unet": denoiser,
        "safety_checker": safety_checker,
    }
    for name, part in parts.items():
        part.half().save_pretrained(folder / name)
        _load_as_float32(folder / name / "config.json")
    PNDMScheduler(
        **NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(folder / "feature_extractor")
    (folder / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n")
    (folder / FACTS).write_text(json.dumps(asdict(DEFAULTS), indent=2) + "\n")
    shutil.copyfile(_CARD, folder / "README.md")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)


def _load_as_float32(config: Path) -> None:
    """Save all parts in one dtype, for those who name none, whichever library loads them.

    transformers goes by the config's ``dtype`` and would keep half precision; diffusers does not.
    """
    content = json.loads(config.read_text())
    if "dtype" in content:
        content["dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2) + "\n")
