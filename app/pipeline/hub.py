"""Finding a checkpoint's folder, and fetching it from the Hugging Face Hub where it is not here."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from app.errors import CheckpointError, CheckpointUnavailable
from app.pipeline.checkpoint import WEIGHTS
from app.pipeline.known import DEMO, DEMO_FOLDER

Report = Callable[[str, float | None], None]
"""Told what is being done, and how far it is (0–1) where that is known."""

PARTS = ("unet", "vae", "image_encoder", "safety_checker", "feature_extractor", "scheduler")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_checkpoint(
    model: str, revision: str | None, report: Report, *, safety_checker: bool = True
) -> Path:
    """The folder of ``model``: ``demo``, a folder, or a hub id, which is downloaded if need be.

    Raises :class:`CheckpointError` where there is no such checkpoint, and
    :class:`CheckpointUnavailable` where the hub cannot be asked now.
    """
    if is_local(model):
        return _local(model)
    if model == DEMO:
        raise CheckpointError("there is no built-in checkpoint: run `python -m app train demo`")
    if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
        raise CheckpointError(
            f"there is no folder {model!r}; a model is `demo`, a folder, or a hub id "
            "such as lambdalabs/sd-image-variations-diffusers"
        )
    parts = [part for part in PARTS if safety_checker or part != "safety_checker"]
    return _fetch(model, revision, report, parts)


def is_local(model: str) -> bool:
    """True where ``model`` is the built-in one or a folder, and no hub id."""
    return _local(model).is_dir()


def _local(model: str) -> Path:
    return DEMO_FOLDER if model == DEMO else Path(model).expanduser()


def needed_files(files: Iterable[str], parts: Sequence[str] = PARTS) -> list[str]:
    """Those of a repository's files that loading reads: safetensors where a part has them.

    >>> needed_files(["unet/config.json", "unet/model.bin", "unet/model.fp16.bin", "README.md"])
    ['unet/config.json', 'unet/model.bin']
    """
    wanted = [path for path in files if path == "model_index.json" or _is_read(path, parts)]
    safe = tuple(f"{path.partition('/')[0]}/" for path in wanted if path.endswith(".safetensors"))
    return [path for path in wanted if not (path.startswith(safe) and ".bin" in path)]


def _is_read(path: str, parts: Sequence[str]) -> bool:
    part, _, name = path.partition("/")
    return part in parts and (name.endswith("config.json") or WEIGHTS.fullmatch(name) is not None)


def _fetch(repository: str, revision: str | None, report: Report, parts: Sequence[str]) -> Path:
    report("downloading", None)
    # What is caught are the errors of whichever HTTP client this version of the library uses.
    try:
        tree = HfApi().list_repo_tree(repository, recursive=True, revision=revision)
        files = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    except Exception as error:
        index = try_to_load_from_cache(repository, "model_index.json", revision=revision)
        # A download that was cut short may have nothing of some part.
        if isinstance(index, str) and all(any(Path(index).parent.glob(f"{p}/*")) for p in parts):
            return Path(index).parent
        raise _not_fetched(repository, revision, error) from error
    needed = needed_files(files, parts)
    bar = _reporting_bar(sum(files[path] for path in needed), report)
    try:
        path = snapshot_download(
            repository, revision=revision, allow_patterns=needed, tqdm_class=bar
        )
    except Exception as error:
        raise _not_fetched(repository, revision, error) from error
    return Path(path)


def _not_fetched(repository: str, revision: str | None, error: Exception) -> CheckpointError:
    """An error that is final if the hub says so, else one that may pass."""
    at = f" at revision {revision!r}" if revision else ""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    final = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | GatedRepoError)
    kind = CheckpointError if final else CheckpointUnavailable
    return kind(f"{repository}{at} cannot be fetched from the hub: {reason}")


def _reporting_bar(total: int, report: Report) -> type[tqdm]:
    """A progress bar's class that draws nothing and reports the bytes of all files together.

    The hub's library makes one bar of bytes received and, in newer versions, one of bytes written,
    and learns their totals only as it goes; the further of the two over the known total is how far
    the download is.
    """

    class Bar(tqdm):
        def __init__(self, *iterable: Any, unit: str = "it", **options: Any) -> None:
            super().__init__(*iterable, **options | {"disable": True})  # type: ignore[no-untyped-call]
            self._bytes = unit == "B"

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._bytes:
                report("downloading", min(1.0, self.n / max(total, 1)))

    return Bar
