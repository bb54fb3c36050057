"""Finding and loading a checkpoint: built in, in a folder, or on the Hugging Face Hub.

Parts are loaded one by one through diffusers' and transformers' own ``from_pretrained``, so parts
that the checkpoint has besides do no harm. No code from a checkpoint runs: pickled weights go
through torch's restricted unpickler, and remote code is never trusted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from app.errors import CheckpointError
from app.pipeline.known import DEMO, DEMO_FOLDER

Progress = Callable[[str, float | None], None]
"""Told a stage of loading and, where it is known, how much of it (0–1) is done."""

_PARTS = ("image_encoder", "unet", "vae", "safety_checker")
_CONFIGS = ("feature_extractor/*.json", "scheduler/*.json", "model_index.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of one checkpoint, on one device, ready for inference.

    ``image_encoder`` and ``unet`` and ``vae`` have the dtype asked for; ``safety_checker`` is
    float32 always, because a score that is not a number would pass as harmless. ``scheduler`` is
    the config of the checkpoint's own scheduler.
    """

    image_encoder: CLIPVisionModelWithProjection
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    safety_checker: StableDiffusionSafetyChecker | None
    feature_extractor: CLIPImageProcessor
    scheduler: dict[str, Any]


def locate(model: str, revision: str | None, *, safety_checker: bool, progress: Progress) -> Path:
    """The folder that holds ``model``, downloaded first if it is a hub id.

    ``progress`` hears of ``"downloading"``. Raises :class:`CheckpointError` when there is no such
    folder, repository, revision or network.
    """
    if model == DEMO:
        return DEMO_FOLDER
    if Path(model).is_dir():
        return Path(model)
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise CheckpointError(
            f"no such folder: {model!r}; a model is 'demo', a folder in diffusers format, or a "
            "hub id such as lambdalabs/sd-image-variations-diffusers"
        )
    return _download(model, revision, safety_checker=safety_checker, progress=progress)


def load(
    folder: Path, device: torch.device, dtype: torch.dtype, *, safety_checker: bool
) -> Checkpoint:
    """Load every part from ``folder`` onto ``device``.

    Raises :class:`CheckpointError` naming the part that is missing, unsafe or of another kind.
    """
    _hush()
    checker = None
    if safety_checker:
        if not (folder / "safety_checker").is_dir():
            raise CheckpointError(
                "the checkpoint has no safety checker; to serve its pictures unchecked, set "
                "VARIATIONS_SAFETY_CHECKER=off"
            )
        checker = _part(folder, "safety_checker", StableDiffusionSafetyChecker, torch.float32)
    encoder = _part(folder, "image_encoder", CLIPVisionModelWithProjection, dtype)
    unet = _part(folder, "unet", UNet2DConditionModel, dtype)
    vae = _part(folder, "vae", AutoencoderKL, dtype)
    with _explained("feature_extractor"):
        extractor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    with _explained("scheduler"):
        # The class is only a reader here: it tells given values from its own defaults.
        scheduler = dict(PNDMScheduler.from_pretrained(folder / "scheduler").config)
    for part in (unet, vae):
        part.to(memory_format=torch.channels_last)
    for part in filter(None, (encoder, unet, vae, checker)):
        part.to(device).eval().requires_grad_(False)
    return Checkpoint(encoder, unet, vae, checker, extractor, scheduler)


def _hush() -> None:
    """No progress bars for parts that load in seconds, no advice about optional packages."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def _part(folder: Path, name: str, kind: Any, dtype: torch.dtype) -> Any:
    with _explained(name):
        if not (folder / name / "config.json").is_file():
            raise FileNotFoundError(f"there is no {name}/config.json in the checkpoint")
        wanted = {"dtype": dtype} if kind.__module__.startswith("transformers") else {}
        wanted = wanted or {"torch_dtype": dtype}
        part: nn.Module = kind.from_pretrained(folder / name, local_files_only=True, **wanted)
    broken = [key for key, value in part.named_parameters() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"the {name}'s weights are not finite, {broken[0]} for one")
    return part


@contextmanager
def _explained(part: str) -> Iterator[None]:
    """Whatever goes wrong while a part is loaded becomes an error that names it.

    The libraries raise a dozen different things here, all of which mean the same to the user.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            reason = ["its pickle holds more than tensors, which could run code; use safetensors"]
        raise CheckpointError(f"the {part} cannot be loaded: {reason[0]}") from error


def _download(
    model: str, revision: str | None, *, safety_checker: bool, progress: Progress
) -> Path:
    progress("downloading", None)
    try:
        files = HfApi().list_repo_files(model, revision=revision)
    except HFValidationError as error:
        raise CheckpointError(f"{model!r} is neither a folder nor a hub id") from error
    except Exception as error:
        return _cached(model, revision, error)
    parts = _PARTS if safety_checker else _PARTS[:-1]
    wanted = [*_CONFIGS, *(path for part in parts for path in _files_of(part, files))]
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=wanted,
                tqdm_class=_reporting(progress),
            )
        )
    except Exception as error:
        raise CheckpointError(f"the download of {model} failed: {error}") from error


def _cached(model: str, revision: str | None, reason: Exception) -> Path:
    """The copy of an earlier download, for a hub that does not answer."""
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception:
        asked = f"{model} at {revision}" if revision else model
        raise CheckpointError(f"the hub has no {asked}, or no answer: {reason}") from reason


def _files_of(part: str, files: list[str]) -> list[str]:
    """The config of a part and its weights, once: safetensors if there are, else pickles."""
    mine = [path for path in files if path.startswith(f"{part}/")]
    for ending in (".safetensors", ".bin"):
        weights = [p for p in mine if p.endswith(ending) and ".fp16." not in p]
        if weights:
            indices = [p for p in mine if p.endswith(f"{ending}.index.json")]
            return [f"{part}/config.json", *weights, *indices]
    return mine


def _reporting(progress: Progress) -> "type[tqdm[Any]]":
    """A progress bar that tells ``progress`` of the bytes and shows nothing."""

    class Reporting(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._bytes = options.get("unit") == "B" and "transfer" not in options.get("desc", "")
            super().__init__(*args, **options | {"file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._bytes and self.total:
                progress("downloading", min(1.0, self.n / self.total))
            return shown

    return Reporting


class _Nowhere:
    def write(self, _: str) -> None:
        pass

    def flush(self) -> None:
        pass
