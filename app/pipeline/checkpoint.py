"""Loading the parts of a checkpoint, each by diffusers' or transformers' own ``from_pretrained``.

Parts are loaded one by one from their subfolders, so that further parts in the folder do no harm
and nothing in ``model_index.json`` decides which class is imported. Pickles pass through torch's
restricted unpickler only.
"""

import inspect
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch.nn.modules.module import register_module_parameter_registration_hook

from app.errors import CheckpointError, CheckpointUnavailable
from app.pictures.fit import Preprocessing
from app.pipeline.devices import Dtypes, ran_out_of_memory
from app.pipeline.files import (
    CHECKER,
    PARTS,
    Weights,
    check_weights,
    chosen_weights,
    lacking,
    listing,
    may_pass,
    read_json,
    read_shards,
    tensor_sizes,
)

MOST_TENSORS = 20_000
"""Of one part; the largest have some 2,000."""

MOST_LATENTS, MOST_PIXELS, MOST_TIMESTEPS = 256, 2048, 10_000
"""What the weights say nothing of: the sides of the UNet's latents and of the safety checker's
pictures, and the timesteps of training."""

# All that a config may say. Not there: what names code or kernels to fetch, or other files.
_VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
)
_EXTRACTOR_KEYS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
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

    @property
    def size_unit(self) -> int:
        """Pixels that each side of a picture is a multiple of, for the UNet to halve it."""
        return int(self.vae_scale * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def preprocessing(self, *, antialias: bool) -> Preprocessing:
        """What makes the encoder's input of a picture."""
        extractor, side = self.feature_extractor, self.image_encoder.config.image_size
        mean, std = tuple(extractor.image_mean), tuple(extractor.image_std)
        return Preprocessing(side=side, antialias=antialias, mean=mean, std=std)


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
    parts = [part for part in PARTS if safety_checker or part != CHECKER]
    if reason := lacking(listing(folder, parts), parts):
        raise CheckpointError(f"{folder}: {reason}")
    scheduler = _scheduler_config(folder / "scheduler" / "scheduler_config.json")
    extractor = _feature_extractor(folder / "feature_extractor" / "preprocessor_config.json")
    vision = transformers.CLIPVisionModelWithProjection
    encoder = _load(vision, folder / "image_encoder", dtypes.others)
    found = Parts(
        unet=_load(diffusers.UNet2DConditionModel, folder / "unet", dtypes.unet),
        vae=_load(diffusers.AutoencoderKL, folder / "vae", dtypes.others),
        image_encoder=encoder,
        feature_extractor=extractor,
        safety_checker=(
            _load(StableDiffusionSafetyChecker, folder / CHECKER, torch.float32)
            if safety_checker
            else None
        ),
        scheduler_config=scheduler,
    )
    wanted, given = found.unet.config.cross_attention_dim, encoder.config.projection_dim
    if wanted != given:
        raise CheckpointError(
            f"the UNet takes conditions of {wanted} numbers but the image encoder makes {given}: "
            "parts of different checkpoints?"
        )
    sides = found.unet.config.sample_size
    for side in sides if isinstance(sides, list | tuple) and len(sides) == 2 else [sides]:
        _check_whole(folder / "unet" / "config.json", "sample_size", side, MOST_LATENTS)
    return found


def _load(kind: Any, path: Path, dtype: torch.dtype) -> Any:
    """One part, from a folder of its own in which there is nothing that was not looked at."""
    config = _config(path / "config.json", kind)
    weights = chosen_weights(each.name for each in path.iterdir())
    assert weights is not None  # noqa: S101  as its files were seen to be there
    shards = read_shards(path, weights)
    try:
        _hold_against(weights, path, kind, config)
        with _staged(path, weights, shards, kind, config) as folder:
            module, report = kind.from_pretrained(
                str(folder),
                use_safetensors=weights.safetensors,
                local_files_only=True,
                output_loading_info=True,
                **{"dtype" if _is_transformer(kind) else "torch_dtype": dtype},
            )
    except CheckpointError:
        raise
    except Exception as error:
        # Both libraries raise whatever a broken file makes them stumble over.
        passing = may_pass(error) or ran_out_of_memory(error)
        raise (CheckpointUnavailable if passing else CheckpointError)(_why(path, error)) from error
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


@contextmanager
def _staged(
    path: Path, weights: Weights, shards: Mapping[str, str], kind: Any, config: Mapping[str, Any]
) -> Iterator[Path]:
    """A folder with this config and the weights in ``path``, under the names of no variant.

    The libraries would look into the checkpoint's own for more: adapters, other weights, code.
    """
    stem = "diffusion_pytorch_model"
    if _is_transformer(kind):
        stem = "model" if weights.safetensors else "pytorch_model"
    suffix = "safetensors" if weights.safetensors else "bin"
    count = len(weights.files)
    names = [f"{stem}-{number:05}-of-{count:05}.{suffix}" for number in range(1, count + 1)]
    renamed = dict(zip(weights.files, names if shards else [f"{stem}.{suffix}"], strict=True))
    with TemporaryDirectory(prefix="checkpoint-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config))
        for old, new in renamed.items():
            (folder / new).symlink_to((path / old).resolve())
        if shards:
            index = {
                "metadata": {},
                "weight_map": {key: renamed[old] for key, old in shards.items()},
            }
            (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        yield folder


def _hold_against(weights: Weights, path: Path, kind: Any, config: Mapping[str, Any]) -> None:
    """Build the part without memory, and stop where it asks for far more than its weights have."""
    held = sum(_numbers_in(path / name) for name in weights.files)
    asked, tensors = 0, 0

    def count(_module: Any, _name: str, parameter: Any) -> None:
        nonlocal asked, tensors
        asked, tensors = asked + (0 if parameter is None else parameter.numel()), tensors + 1
        if asked > 2 * held or tensors > MOST_TENSORS:
            raise CheckpointError(
                f"the weights in {path} are incomplete, or its config.json belongs to others: it "
                f"asks for {asked} numbers or more in {tensors} tensors, and they hold {held}"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            if _is_transformer(kind):
                kind(kind.config_class.from_dict(dict(config)))
            else:
                kind.from_config(dict(config))
    finally:
        hook.remove()


def _numbers_in(path: Path) -> int:
    """The numbers in a file of weights; in most formats that is found without reading them."""
    size = check_weights(path)
    if path.suffix == ".safetensors":
        return sum(tensor_sizes(path).values())
    in_zip = is_zipfile(path)  # as torch writes them since 1.6
    if in_zip:
        with ZipFile(path) as archive:
            entries = archive.infolist()
        compressed = any(each.compress_type != ZIP_STORED for each in entries)
        if compressed or sum(each.file_size for each in entries) > size:
            raise CheckpointError(f"{path} is compressed, which weights are not")
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=in_zip)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} should hold a dict of tensors")
    numbers = sum(each.numel() for each in tensors.values() if isinstance(each, torch.Tensor))
    return min(numbers, size)  # a pickle may repeat one number without end


def _is_transformer(kind: Any) -> bool:
    return issubclass(kind, transformers.PreTrainedModel)


def _config(path: Path, kind: Any) -> dict[str, Any]:
    """What a part's config says of its architecture, and nothing else."""
    found = read_json(path)
    architectures = found.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    name = found.get("_class_name") or next(iter(names), kind.__name__)
    if name != kind.__name__:
        raise CheckpointError(
            f"{path.parent} holds {name}, where image variations need {kind.__name__}"
        )
    if found.get("quantization_config"):
        raise CheckpointError(
            f"{path} has a quantization_config; only weights that are not quantized are served"
        )
    if kind is StableDiffusionSafetyChecker:
        return _checker_config(found)
    if _is_transformer(kind):
        return {"model_type": "clip_vision_model", **_vision_config(found)}
    known = inspect.signature(kind.__init__).parameters
    config = {key: value for key, value in found.items() if key in known}
    return {"_class_name": kind.__name__, **config}


def _vision_config(found: Mapping[str, Any]) -> dict[str, Any]:
    inner = found.get("vision_config") if found.get("model_type") == "clip" else found
    inner = inner if isinstance(inner, dict) else {}
    return {key: inner[key] for key in _VISION_KEYS if key in inner}


def _checker_config(found: Mapping[str, Any]) -> dict[str, Any]:
    """The text half is not part of the checker. Configs of 2022 have `…_dict`, which goes first."""
    inner = found.get("vision_config_dict") or found.get("vision_config")
    vision = _vision_config(inner) if isinstance(inner, dict) else {}
    sizes = {key: found[key] for key in ("projection_dim",) if key in found}
    return {"model_type": "clip", "vision_config": vision, **sizes}


def _feature_extractor(path: Path) -> Any:
    found = read_json(path)
    config = {key: found[key] for key in _EXTRACTOR_KEYS if key in found}
    for key in ("size", "crop_size"):
        sizes = config.get(key, {})
        for side in sizes.values() if isinstance(sizes, dict) else [sizes]:
            _check_whole(path, key, side, MOST_PIXELS)
    for key in ("image_mean", "image_std"):
        numbers = config.get(key, [1.0] * 3)
        if not (isinstance(numbers, list) and len(numbers) == 3 and all(map(_is_finite, numbers))):
            raise CheckpointError(f"{path}: {key} is a list of three numbers, not {numbers!r:.80}")
    with TemporaryDirectory(prefix="checkpoint-") as folder:
        (Path(folder) / path.name).write_text(json.dumps(config))
        try:
            return transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error


def _scheduler_config(path: Path) -> dict[str, Any]:
    found = read_json(path)
    _check_whole(path, "num_train_timesteps", found.get("num_train_timesteps", 1), MOST_TIMESTEPS)
    return found


def _check_whole(path: Path, key: str, value: object, most: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise CheckpointError(
            f"{path}: {key} is a whole number from 1 to {most}, not {value!r:.80}"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
