"""The files of a checkpoint: which of them loading reads, and reading them with care.

A checkpoint is files from strangers. Only those named here are opened, and only if they are regular
files of a size that such a file can have.
"""

import errno
import json
import math
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from app.errors import CheckpointError, CheckpointUnavailable

_CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "image_encoder": "config.json",
    "safety_checker": "config.json",
    "feature_extractor": "preprocessor_config.json",
    "scheduler": "scheduler_config.json",
}
PARTS = tuple(_CONFIGS)
WITH_WEIGHTS = PARTS[:4]
CHECKER = "safety_checker"

MOST_JSON_BYTES = 8 * 2**20
MOST_WEIGHTS_BYTES = 64 * 2**30
"""Of one file. The largest parts of this kind have some 10 GB."""

_VARIANTS = ("", "fp16", "bf16", "fp32")
"""Precisions that the name of a file may tell, the best first; `….non_ema` is none of them."""

_VARIANT = rf"(?:\.({'|'.join(_VARIANTS[1:])}))?"
# Whole, as a shard or as the index of shards. The libraries have put the variant in several places.
_WEIGHTS = re.compile(
    rf"(diffusion_pytorch_model|pytorch_model|model){_VARIANT}(?:-(\d+)-of-(\d+))?{_VARIANT}"
    rf"\.(bin|safetensors)(\.index{_VARIANT}\.json)?"
)
_OTHER_WEIGHTS = (".ckpt", ".msgpack", ".onnx", ".pb", ".h5", ".pt", ".pth", ".bin", ".safetensors")
_LFS = b"version https://git-lfs"

_MAY_PASS = {errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ENOSPC, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True, slots=True)
class Weights:
    """Names of the files with a part's weights, all of one format.

    ``index`` names that of the shards; ``complete`` is False where shards or their index miss.
    """

    files: tuple[str, ...]
    index: str | None
    safetensors: bool
    complete: bool


def chosen_weights(names: Iterable[str]) -> Weights | None:
    """The weights among the files of one part, ``None`` where there are none.

    What is complete is taken first, then what is no variant, then safetensors, then what is whole.

    >>> chosen_weights(["model.fp16.safetensors", "pytorch_model.bin"]).files
    ('pytorch_model.bin',)
    """
    groups: dict[tuple[int, bool, int, str], list[str]] = {}
    indices: dict[tuple[int, bool, str], str] = {}
    for name in sorted(names):
        if not (match := _WEIGHTS.fullmatch(name)):
            continue
        stem, before, number, count, after, suffix, index, last = match.groups()
        variant = _VARIANTS.index(before or after or last or "")
        if index:
            indices[variant, suffix == "bin", stem] = name
        else:
            key = variant, suffix == "bin", int(count) if number else 0, stem
            groups.setdefault(key, []).append(name)
    found = []
    for (variant, pickled, count, stem), group in groups.items():
        index = indices.get((variant, pickled, stem)) if count else None
        complete = not count or (len(group) == count and index is not None)
        order = (not complete, variant, pickled, count, stem)
        found.append((order, Weights(tuple(group), index, not pickled, complete)))
    return min(found, key=lambda each: each[0])[1] if found else None


def needed_files(files: Iterable[str], parts: Sequence[str] = PARTS) -> list[str]:
    """Those of a repository's files that loading reads.

    >>> needed_files(["unet/config.json", "unet/model.bin", "unet/model.fp16.bin", "README.md"])
    ['unet/config.json', 'unet/model.bin']
    """
    files = list(files)
    wanted = {"model_index.json"}
    for part, names in _by_part(files, parts).items():
        wanted.add(f"{part}/{_CONFIGS[part]}")
        weights = chosen_weights(names) if part in WITH_WEIGHTS else None
        if weights:
            read = [*weights.files, *([weights.index] if weights.index else [])]
            wanted |= {f"{part}/{name}" for name in read}
    return [path for path in files if path in wanted]


def lacking(files: Iterable[str], parts: Sequence[str] = PARTS) -> str | None:
    """The reason why a checkpoint of these files can never be loaded; ``None`` if it may be."""
    files = list(files)
    by_part = _by_part(files, parts)
    if CHECKER in parts and not by_part[CHECKER] and not lacking(files, _but_checker(parts)):
        return (
            "it has no safety checker; add one, or serve unchecked pictures on purpose by "
            "switching it off (VARIATIONS_SAFETY_CHECKER=off)"
        )
    missing = [f"{part}/{_CONFIGS[part]}" for part in parts if _CONFIGS[part] not in by_part[part]]
    missing += [
        f"weights in {part} ({_instead(by_part[part])})"
        for part in parts
        if part in WITH_WEIGHTS and not _complete(by_part[part])
    ]
    if not missing:
        return None
    return f"the checkpoint is incomplete: {', '.join(missing)} missing{_hint(files, by_part)}"


def listing(folder: Path, parts: Sequence[str] = PARTS) -> list[str]:
    """The paths in the folders of ``parts``, relative to ``folder``.

    Raises :class:`CheckpointError` where they cannot be listed.
    """
    found = []
    for part in parts:
        try:
            found += [f"{part}/{path.name}" for path in (folder / part).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise unreadable(folder / part, error) from error
    return found


def check_file(path: Path, most_bytes: int) -> int:
    """The size in bytes of a regular file with something in it; raises :class:`CheckpointError`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint is incomplete: {path} is missing") from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
        raise CheckpointError(f"{path} is {kind}, where a file belongs")
    if not 0 < found.st_size <= most_bytes:
        raise CheckpointError(
            f"{path} has {found.st_size} bytes, where such a file has 1 to {most_bytes}"
        )
    return found.st_size


def check_weights(path: Path) -> int:
    """As :func:`check_file`, and what begins like weights and not like a stand-in for them."""
    size = check_file(path, MOST_WEIGHTS_BYTES)
    _refuse_pointer(path, _read(path, len(_LFS)))
    return size


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises :class:`CheckpointError` where there is none."""
    check_file(path, MOST_JSON_BYTES)
    text = _read(path, MOST_JSON_BYTES)
    _refuse_pointer(path, text)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object")
    return content


def read_shards(folder: Path, weights: Weights) -> dict[str, str]:
    """The shard that holds each tensor, from their index; empty where the weights are whole.

    Raises :class:`CheckpointError` where it names another file than the shards that are there.
    """
    if weights.index is None:
        return {}
    found = read_json(folder / weights.index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{folder / weights.index} has no weight_map")
    for name in found.values():
        if name not in weights.files:
            raise CheckpointError(
                f"the checkpoint is incomplete: {folder / weights.index} names {name!r}, which is "
                f"none of {', '.join(weights.files)}"
            )
    return found


def tensor_sizes(path: Path) -> dict[str, int]:
    """The numbers in each tensor of a safetensors file, from its header."""
    try:
        with safe_open(path, "np") as file:
            return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"the weights in {path} cannot be loaded: {error}; the file is cut short, or none of "
            "safetensors"
        ) from error


def find_damage(folder: Path, parts: Sequence[str]) -> str | None:
    """The reason why ``folder`` cannot be loaded, as far as one sees without loading it."""
    try:
        found = listing(folder, parts)
        if reason := lacking(found, parts):
            return reason
        for path in (folder / name for name in needed_files(found, parts)):
            if path.suffix == ".json":
                read_json(path)
                continue
            check_weights(path)
            if path.suffix == ".safetensors":
                tensor_sizes(path)
            elif _read(path, 2) == b"PK" and not is_zipfile(path):
                return f"{path} is cut short"
        for part in set(WITH_WEIGHTS).intersection(parts):
            names = [path.removeprefix(f"{part}/") for path in found if path.startswith(f"{part}/")]
            if weights := chosen_weights(names):
                read_shards(folder / part, weights)
    except CheckpointError as error:
        return error.message
    return None


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """An error in reading ``path``: one that is final unless a disk fails."""
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        reason += "; let the user that the service runs as read it"
    kind = CheckpointUnavailable if may_pass(error) else CheckpointError
    return kind(f"{path} cannot be read: {reason}")


def may_pass(error: BaseException) -> bool:
    """True where memory or a disk fails, and not the file."""
    failing = isinstance(error, OSError) and error.errno in _MAY_PASS
    return failing or isinstance(error, MemoryError)


def _by_part(files: Sequence[str], parts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in parts}
    for path in files:
        part, _, name = path.partition("/")
        if part in found and "/" not in name:
            found[part].append(name)
    return found


def _complete(names: Sequence[str]) -> bool:
    weights = chosen_weights(names)
    return weights is not None and weights.complete


def _but_checker(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part != CHECKER]


def _instead(names: Sequence[str]) -> str:
    """What a part has in place of weights that are read."""
    others = [name for name in names if name.endswith(_OTHER_WEIGHTS)]
    has = f"it has {', '.join(others[:3])}" if others else "it has none"
    return f"{has}; .safetensors or .bin are read, whole or with all shards and their index"


def _hint(files: Sequence[str], by_part: dict[str, list[str]]) -> str:
    """What a checkpoint is that lacks so much, where its files tell."""
    top = [path for path in files if "/" not in path and path.endswith((".ckpt", ".safetensors"))]
    if not by_part.get("image_encoder") and any(path.startswith("text_encoder/") for path in files):
        return (
            ": this makes pictures from text; variations need a checkpoint of diffusers' "
            "StableDiffusionImageVariationPipeline, with an image_encoder"
        )
    if top and not by_part.get("unet"):
        return f": {top[0]} must be converted to diffusers' folders first"
    if CHECKER in by_part and not by_part[CHECKER]:
        return "; without a safety checker it is served only with VARIATIONS_SAFETY_CHECKER=off"
    return ""


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise unreadable(path, error) from error


def _refuse_pointer(path: Path, beginning: bytes) -> None:
    if beginning.startswith(_LFS):
        raise CheckpointError(
            f"{path} is a git-lfs pointer and not the file itself: run `git lfs pull` where it was "
            "cloned"
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
