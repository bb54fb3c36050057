"""The trained parts as one checkpoint folder in diffusers' format."""

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from app.parameters import Scheduler
from app.pipeline.checkpoint import Parts
from app.pipeline.known import Known
from app.training.checkpoint import write_checkpoint
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


def export(
    encoder: CLIPVisionModelWithProjection,
    autoencoder: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    safety_checker: StableDiffusionSafetyChecker,
    folder: Path,
) -> None:
    """Write ``folder`` anew, in half precision; the parts become half precision too."""
    shutil.rmtree(folder, ignore_errors=True)
    solver = PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    parts = Parts(
        unet=denoiser.half(),
        vae=autoencoder.half(),
        image_encoder=encoder.half(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            resample=Image.Resampling.BICUBIC,
            image_mean=list(MEAN),
            image_std=list(STD),
        ),
        safety_checker=safety_checker.half(),
        scheduler_config=json.loads(solver.to_json_string()),
    )
    write_checkpoint(folder, parts, DEFAULTS, _CARD.read_text())
    for config in folder.glob("*/config.json"):
        _load_as_float32(config)


def _load_as_float32(config: Path) -> None:
    """Save all parts in one dtype, for those who name none, whichever library loads them.

    transformers goes by the config's ``dtype`` and would keep half precision; diffusers does not.
    """
    content = json.loads(config.read_text())
    if "dtype" in content:
        content["dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2) + "\n")
