"""Finding a checkpoint's folder, and fetching it from the Hugging Face Hub where it is not here."""

import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from app.errors import CheckpointError, CheckpointUnavailable
from app.parameters import ModelConfig
from app.pipeline.download import Downloads, Told, watched
from app.pipeline.files import CHECKER, PARTS, find_damage, unreadable
from app.pipeline.known import DEMO, DEMO_FOLDER, known_revision

Report = Callable[[str, float | None], None]
"""Told what is being done, and how far it is (0–1) where that is known."""

_BUSY = {408, 425, 429}
"""Statuses of the 400s that say nothing about the repository."""

_NO_CACHE = PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError

_MOST_QUOTED = 300

logger = logging.getLogger(__name__)


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
    if _local(model).exists():
        raise CheckpointError(f"{model} is a file, where a folder in diffusers' format is needed")
    try:
        validate_repo_id(model)
    except HFValidationError:
        model_is_id = False
    else:
        model_is_id = model.count("/") == 1
    if not model_is_id:
        raise CheckpointError(
            f"{_no_folder(model)}; a model is `demo`, a folder, or a hub id "
            "such as lambdalabs/sd-image-variations-diffusers"
        )
    parts = [part for part in PARTS if safety_checker or part != CHECKER]
    return _fetch(model, revision or constants.DEFAULT_REVISION, report, parts)


def identity(config: ModelConfig) -> tuple[str, str | None]:
    """The id and revision by which others know the checkpoint that is to be loaded.

    Of a folder its name alone: answers tell nobody how this machine is laid out.
    """
    if is_local(config.model):
        return _local(config.model).resolve().name, None
    return config.model, config.revision or known_revision(config.model)


def is_local(model: str) -> bool:
    """True where ``model`` is the built-in one or a folder, and no hub id.

    Raises :class:`CheckpointError` where that cannot be found out.
    """
    try:
        return _local(model).is_dir()
    except OSError as error:
        raise unreadable(Path(model), error) from error


def _local(model: str) -> Path:
    try:
        return DEMO_FOLDER if model == DEMO else Path(model).expanduser()
    except RuntimeError as error:  # of a user that there is not
        raise CheckpointError(f"there is no folder {model!r}: {error}") from error


def _fetch(repository: str, revision: str, report: Report, parts: Sequence[str]) -> Path:
    """The folder of a repository in the cache, with all that is needed, from the hub or before."""
    report("downloading", None)
    fractions: list[float] = []

    def tell(fraction: float) -> None:
        fractions.append(fraction)
        report("downloading", fraction)

    def fetch(tell: Told) -> Path:
        return Downloads(repository, revision).fetch(parts, tell)

    try:
        return watched(fetch, tell)
    except CheckpointError:
        raise
    except Exception as error:
        # Of many kinds: those of the HTTP client that this version of the library uses, and more.
        folder = _cached(repository, revision)
        damage = find_damage(folder, parts) if folder else "it is not there, or not whole"
        if folder is None or damage:
            where = f"in the cache {folder or constants.HF_HUB_CACHE}: {damage}"
            unknown = folder is None and not fractions  # it may be a folder that was meant
            raise _not_fetched(repository, revision, error, where, unknown) from error
        logger.warning("%s is served from the cache: %s", repository, _reason(error))
        return folder


def _cached(repository: str, revision: str) -> Path | None:
    """The folder in which the cache has this revision, or a part of it."""
    try:
        for name in ("unet/config.json", "model_index.json", "vae/config.json"):
            found = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(found, str):
                return Path(found).parents[name.count("/")]
    except OSError as error:
        raise unreadable(Path(constants.HF_HUB_CACHE), error) from error
    return None


def _not_fetched(
    repository: str, revision: str, error: Exception, cached: str, unknown: bool
) -> CheckpointError:
    """An error that is final if the hub says so, else one that may pass."""
    kind: type[CheckpointError] = CheckpointError
    if isinstance(error, OfflineModeIsEnabled):
        if not unknown:  # somebody may be about to fill it
            kind = CheckpointUnavailable
        why = f"HF_HUB_OFFLINE is set; unset it, or fill the cache first; {cached}"
    elif isinstance(error, HfHubHTTPError) and _is_final(error):
        given = "with a token" if get_token() else "without a token"
        why = f"{_refusal(repository, revision, error)} ({given} the hub says: {_reason(error)})"
    elif isinstance(error, _NO_CACHE) or getattr(error, "errno", None) == errno.EROFS:
        why = f"the cache cannot be used ({error}); mend that, or set HF_HOME to another folder"
    else:
        kind = CheckpointUnavailable
        why = f"it does not answer, or not well ({_reason(error)}); {cached}"
    if unknown and not isinstance(error, GatedRepoError | RevisionNotFoundError):
        why += f"; besides, {_no_folder(repository)}"
    return kind(f"{repository} at revision {revision!r} cannot be fetched from the hub: {why}")


def _refusal(repository: str, revision: str, error: HfHubHTTPError) -> str:
    """The reason why the hub gives no file, and the way out."""
    token = get_token()
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        ask = f"ask for access on {constants.ENDPOINT}/{repository}"
        if token:
            return f"it is gated, and the token in HF_TOKEN is not let in: {ask} with its account"
        return f"it is gated, and no token is given: {ask}, and set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision!r}: correct VARIATIONS_REVISION"
    unknown = isinstance(error, RepositoryNotFoundError) or status == 404
    if unknown or (status == 401 and not token):
        which = "the token in HF_TOKEN does not open it" if token else "no token is given"
        return (
            f"there is no such repository, or it is private and {which}: correct VARIATIONS_MODEL, "
            "or set HF_TOKEN to a token that may read it"
        )
    given = "the token in HF_TOKEN" if token else "no token"
    return (
        f"status {status} with {given}: set HF_TOKEN to a valid token that may read it, or unset "
        "it for a repository that is open to all"
    )


def _is_final(error: HfHubHTTPError) -> bool:
    """True where the hub itself, and not a store that it refers to, refuses for good."""
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return True
    status, url = error.response.status_code, str(error.response.url)
    return 400 <= status < 500 and status not in _BUSY and url.startswith(constants.ENDPOINT)


def _reason(error: Exception) -> str:
    said = getattr(error, "server_message", None) or str(error)
    words = " ".join(said.split())[:_MOST_QUOTED]
    return words or type(error).__name__


def _no_folder(model: str) -> str:
    return f"there is no folder {model!r} in {Path.cwd()}"
