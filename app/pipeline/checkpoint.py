"""Loading the parts of a checkpoint, each by diffusers' or transformers' own ``from_pretrained``.

Parts are loaded one by one from their subfolders, so that further parts in the folder do no harm
and nothing in ``model_index.json`` decides which class is imported. Pickles pass through torch's
restricted unpickler only.
"""

import errno
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from app.errors import CheckpointError, CheckpointUnavailable

# The main weights, whole or in shards; not variants such as `model.fp16` or `….non_ema`.
WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(-\d+-of-\d+)?\.(bin|safetensors)(\.index\.json)?"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one checkpoint, on the CPU; ``scheduler_config`` is that file's content."""

    unet: Any
    vae: Any
    image_encoder: Any
    feature_extractor: Any
    safety_checker: Any | None
    scheduler_config: dict[str, Any]

    @property
    def vae_scale(self) -> int:
        """Pixels to a latent, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


@dataclass(frozen=True, slots=True)
class Dtypes:
    """``unet`` runs at every step; ``others`` once a picture."""

    unet: torch.dtype
    others: torch.dtype


def load_parts(folder: Path, dtypes: Dtypes, safety_checker: bool) -> Parts:
    """Load the checkpoint in ``folder``.

    Raises :class:`CheckpointError` where a part is missing, of another class, incomplete, not
    finite or a pickle that would run code, and where there is no safety checker though one is
    asked for. The checker is float32 always: a score that is not a number passes as harmless.
    """
    # No progress bars for parts that load in seconds, no advice about optional packages.
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    if safety_checker and not (folder / "safety_checker").is_dir():
        raise CheckpointError(
            f"{folder} has no safety checker; add one, or serve unchecked pictures on purpose "
            "by switching it off (VARIATIONS_SAFETY_CHECKER=off)"
        )
    extractor = folder / "feature_extractor"
    _read_json(extractor / "preprocessor_config.json")
    vision = transformers.CLIPVisionModelWithProjection
    encoder = _load(vision, folder, "image_encoder", dtypes.others)
    parts = Parts(
        unet=_load(diffusers.UNet2DConditionModel, folder, "unet", dtypes.unet),
        vae=_load(diffusers.AutoencoderKL, folder, "vae", dtypes.others),
        image_encoder=encoder,
        feature_extractor=transformers.CLIPImageProcessor.from_pretrained(
            str(extractor), local_files_only=True
        ),
        safety_checker=(
            _load(StableDiffusionSafetyChecker, folder, "safety_checker", torch.float32)
            if safety_checker
            else None
        ),
        scheduler_config=_read_json(folder / "scheduler" / "scheduler_config.json"),
    )
    wanted, given = parts.unet.config.cross_attention_dim, encoder.config.projection_dim
    if wanted != given:
        raise CheckpointError(
            f"the UNet takes conditions of {wanted} numbers but the image encoder makes {given}: "
            "parts of different checkpoints?"
        )
    return parts


def _load(kind: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    path = folder / part
    _check_class(path / "config.json", kind)
    try:
        module, report = kind.from_pretrained(
            str(path),
            use_safetensors=any(WEIGHTS.fullmatch(p.name) for p in path.glob("*.safetensors")),
            local_files_only=True,
            output_loading_info=True,
            **{"dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype": dtype},
        )
    except Exception as error:
        # Both libraries raise whatever a broken file makes them stumble over.
        kind = CheckpointUnavailable if _may_pass(error) else CheckpointError
        raise kind(_why(path, error)) from error
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(f"the weights in {path} are incomplete: {names}, … are missing")
    broken = [name for name, weight in module.named_parameters() if not weight.isfinite().all()]
    if broken:
        name = str(dtype).removeprefix("torch.")
        wide = name == "float32"
        wider = "" if wide else f" in {name}; VARIATIONS_DTYPE=float32 has a wider range"
        raise CheckpointError(f"the weights in {path} are not finite, {broken[0]} for one{wider}")
    return module.eval().requires_grad_(False)


def _check_class(config: Path, kind: Any) -> None:
    found = _read_json(config)
    name = found.get("_class_name") or next(iter(found.get("architectures") or []), kind.__name__)
    if name != kind.__name__:
        raise CheckpointError(
            f"{config.parent} holds {name}, where image variations need {kind.__name__}"
        )


def _why(path: Path, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, pickle.UnpicklingError) or "weights_only" in str(cause).lower():
            return (
                f"the weights in {path} are a pickle that asks to run code or is broken, and were "
                "not loaded; save them as safetensors, or get them from where you trust"
            )
        cause = cause.__cause__ or cause.__context__
    return f"the weights in {path} cannot be loaded: {error}"


def _may_pass(error: Exception) -> bool:
    """True where memory or a disk fails, and not the file."""
    failing = isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOMEM, errno.ESTALE)
    return failing or isinstance(error, MemoryError)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint is incomplete: {path} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object")
    return content
