"""Fetching what a training starts from: folders as they are, hub ids by the hub's own library."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from app.errors import CheckpointError
from app.pipeline.files import PARTS, chosen_weights, needed_files
from app.pipeline.hub import is_local
from app.pipeline.known import DEMO, DEMO_FOLDER
from app.training.errors import CannotStart

_BESIDE = ("config.json", "preprocessor_config.json", "README.md")


def fetch_model(model: str, revision: str | None) -> Path:
    """The folder of a checkpoint: ``demo``, a folder, or a hub id, downloaded if need be.

    Raises :class:`CannotStart` where there is none.
    """
    return DEMO_FOLDER if model == DEMO else _fetch(model, revision)


def fetch_encoder(encoder: str | None) -> Path | None:
    """The same for a vision encoder; None where none is named."""
    return None if encoder is None else _fetch(encoder, None)


def _fetch(name: str, revision: str | None) -> Path:
    try:
        local = is_local(name) or Path(name).exists()
    except CheckpointError as error:
        raise CannotStart(error.message) from error
    if local:
        return Path(name).expanduser()
    if name.count("/") != 1:
        raise CannotStart(f"there is no folder {name!r}; a model is a folder or a hub id")
    try:
        files = HfApi().list_repo_files(name, revision=revision)
        top = [file for file in files if "/" not in file]
        weights = chosen_weights(top)
        wanted = [*needed_files(files, PARTS), *(file for file in _BESIDE if file in files)]
        if weights and "model_index.json" not in files:
            wanted += [*weights.files, *([weights.index] if weights.index else [])]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of many kinds: those of its HTTP client too
        raise CannotStart(
            f"there is no folder {name!r}, and it cannot be fetched from the hub: {error}"
        ) from error
