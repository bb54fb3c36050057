"""What a training starts from: an image-variation checkpoint, or one that makes pictures from text.

Of the latter the text encoder and the tokenizer are left behind and a CLIP vision encoder with
projection takes their place; the UNet keeps its weights and has to learn the new condition.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from app.errors import CheckpointError
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.devices import Dtypes
from app.pipeline.files import CHECKER, PARTS, listing, read_json
from app.pipeline.known import Known, known
from app.training.errors import CannotStart

ENCODER = "image_encoder"
_VARIATIONS = "StableDiffusionImageVariationPipeline"
_WIDTH_OF_2 = 1024
"""Numbers in a text token of Stable Diffusion 2; of Stable Diffusion 1 they are 768."""

_WANTED = "start from Stable Diffusion 1.x in diffusers' format, or from an image-variation model"
_SINGLE_FILES = (".ckpt", ".safetensors", ".pt", ".bin")


@dataclass(frozen=True, slots=True)
class Start:
    """The parts to train from, float32 on the CPU, and the facts that go on with them."""

    parts: Parts
    facts: Known
    name: str
    from_text: bool


def load_start(model: Path, encoder: Path | None) -> Start:
    """The parts of the checkpoint in ``model``, with the vision encoder in ``encoder`` if it is one
    that makes pictures from text.

    Raises :class:`CannotStart` where it is of another family or incomplete, where a text-to-image
    model comes without an encoder or with one of another width.
    """
    check_family(model)
    from_text = not (model / ENCODER).is_dir()
    if from_text and encoder is None:
        raise CannotStart(
            f"{model} makes pictures from text and has no {ENCODER}: name a CLIP vision encoder "
            "with projection (--encoder), ViT-L/14 for Stable Diffusion 1.x"
        )
    if not from_text and encoder is not None:
        raise CannotStart(
            f"{model} has an {ENCODER} of its own, which its UNet was trained with: leave out "
            "--encoder to go on from it"
        )
    try:
        if encoder is None:
            return Start(_load(model), known(str(model), model), model.resolve().name, False)
        with TemporaryDirectory(prefix="start-") as name:
            parts = _load(_assembled(model, encoder, Path(name)))
    except CheckpointError as error:
        raise CannotStart(error.message) from error
    return Start(parts, Known(), model.resolve().name, True)


def check_family(model: Path) -> None:
    """Raise :class:`CannotStart` where ``model`` is not of the family of Stable Diffusion 1."""
    if not model.is_dir():
        kind = f"a single {model.suffix} file" if model.suffix in _SINGLE_FILES else "no folder"
        raise CannotStart(
            f"{model} is {kind}, where a folder in diffusers' format is needed: with a "
            "model_index.json and a folder for each part"
        )
    try:
        name = _class_name(model)
        if reason := _wrong_pipeline(name) or _wrong_unet(model):
            raise CannotStart(f"{model} {reason}; {_WANTED}")
    except CheckpointError as error:
        raise CannotStart(error.message) from error


def _class_name(model: Path) -> str:
    index = model / "model_index.json"
    return str(read_json(index).get("_class_name", "")) if index.exists() else ""


def _wrong_pipeline(name: str) -> str | None:
    if name.startswith("StableDiffusionXL"):
        return "is Stable Diffusion XL"
    if "Inpaint" in name:
        return "is an inpainting model, whose UNet takes a mask besides"
    if name and not name.startswith("StableDiffusion"):
        return f"is a checkpoint of {name}"
    return None


def _wrong_unet(model: Path) -> str | None:
    """What is wrong with the UNet, from its config and that of the autoencoder."""
    unet, vae = (read_json(model / part / "config.json") for part in ("unet", "vae"))
    if unet.get("addition_embed_type") or (model / "text_encoder_2").is_dir():
        return "is Stable Diffusion XL, whose UNet takes sizes and a second text embedding besides"
    if unet.get("cross_attention_dim") == _WIDTH_OF_2:
        return (
            f"is Stable Diffusion 2: its UNet takes conditions of {_WIDTH_OF_2} numbers, and that "
            "of Stable Diffusion 1.x 768"
        )
    if unet.get("class_embed_type") or unet.get("encoder_hid_dim"):
        return "has a UNet that takes further conditions besides the one token"
    channels, latents = int(unet.get("in_channels", 4)), int(vae.get("latent_channels", 4))
    if channels == 2 * latents + 1:
        return f"is an inpainting model: its UNet takes {channels} channels, {latents} are right"
    if channels != latents:
        return f"has a UNet that takes {channels} channels, where its autoencoder makes {latents}"
    return None


def _assembled(model: Path, encoder: Path, folder: Path) -> Path:
    """The parts of both as one image-variation checkpoint, by links."""
    vision = encoder / ENCODER if (encoder / ENCODER).is_dir() else encoder
    if not (vision / "config.json").exists():
        raise CannotStart(
            f"{encoder} is no encoder: it should hold config.json and the weights of a CLIP vision "
            f"model with projection, or a checkpoint with an {ENCODER}"
        )
    sources = {part: model / part for part in PARTS}
    if not sources["feature_extractor"].is_dir():
        beside = encoder / "feature_extractor"
        sources["feature_extractor"] = beside if beside.is_dir() else encoder
    sources[ENCODER] = vision
    for part, source in sources.items():
        if source.is_dir():
            (folder / part).symlink_to(source.resolve())
    return folder


def _load(folder: Path) -> Parts:
    dtypes = Dtypes(unet=torch.float32, others=torch.float32)
    return load_parts(folder, dtypes, _has(listing(folder), CHECKER))


def _has(files: Iterable[str], part: str) -> bool:
    return any(file.startswith(f"{part}/") for file in files)
