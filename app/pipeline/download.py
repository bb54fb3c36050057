"""Downloads from the Hugging Face Hub into its library's cache: bounded in time, and resumed.

The library waits for ever for an answer, tries again by itself for minutes, and begins a file anew
that was cut short. So it only asks here; trying again is for the caller.
"""

import fcntl
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from huggingface_hub import (
    HfApi,
    close_session,
    constants,
    get_session,
    hf_hub_url,
    set_client_factory,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import default_client_factory, hf_raise_for_status

from app.errors import CheckpointError, CheckpointUnavailable
from app.pipeline.files import lacking, needed_files

SILENCE_SECONDS = 10.0
"""Longest wait for a connection, and for the next bytes of an answer."""

STALL_SECONDS = 20.0
"""Longest time in which a download may make no headway: to be told what there is, or some KB."""

HEADWAY_BYTES = 64 * 1024

Told = Callable[[float], None]
"""Told the fraction (0–1) that is here."""


def watched(fetch: Callable[[Told], Path], report: Told) -> Path:
    """The result of ``fetch``, in a thread of its own, which may be given up.

    Raises what it raises, and :class:`TimeoutError` where it makes no headway: no timeout of a
    connection bounds an answer that comes byte by byte, nor the look-up of a name.
    """
    said: SimpleQueue[float | Path | Exception] = SimpleQueue()
    given_up = threading.Event()

    def tell(fraction: float) -> None:
        if given_up.is_set():
            raise TimeoutError
        said.put(fraction)

    def run() -> None:
        try:
            said.put(fetch(tell))
        except Exception as error:
            said.put(error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    permille = -1
    while True:
        try:
            heard = said.get(timeout=STALL_SECONDS)
        except Empty:
            given_up.set()
            close_session()  # whereupon the thread fails, sooner or later, and ends
            raise TimeoutError(f"no headway in {STALL_SECONDS:g} seconds") from None
        if isinstance(heard, Path):
            return heard
        if isinstance(heard, Exception):
            raise heard
        if int(heard * 1000) > permille:
            permille = int(heard * 1000)
            report(heard)


class Downloads:
    """A repository at a revision, and its place in the cache."""

    def __init__(self, repository: str, revision: str) -> None:
        self._repository = repository
        self._revision = revision
        name = repo_folder_name(repo_id=repository, repo_type="model")
        self._folder = Path(constants.HF_HUB_CACHE).expanduser() / name

    def fetch(self, parts: Sequence[str], tell: Told) -> Path:
        """The folder in the cache, with all files that loading ``parts`` reads.

        Raises :class:`CheckpointError` where the list of files says that it can never be loaded.
        """
        api = HfApi()
        commit = api.model_info(self._repository, revision=self._revision).sha or ""
        tree = api.list_repo_tree(self._repository, recursive=True, revision=commit)
        files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        if reason := lacking(files, parts):
            at = f"{self._repository} at revision {self._revision!r}"
            raise CheckpointError(f"{at} cannot be served: {reason}")
        needed = [files[path] for path in needed_files(files, parts)]
        total, done = max(1, sum(entry.size for entry in needed)), 0
        snapshot = self._folder / "snapshots" / _checked(commit)
        for entry in needed:
            if not _is_whole(snapshot / entry.path, entry.size):
                blob = self._folder / "blobs" / _checked(_content_of(entry))
                url = hf_hub_url(self._repository, entry.path, revision=commit)
                _fetch_file(url, blob, entry.size, _share(tell, done, total))
                _link(snapshot / entry.path, blob)
            done += entry.size
            tell(done / total)
        if self._revision != commit:
            _write(self._folder / "refs" / self._revision, commit)
        return snapshot


def _share(tell: Told, done: int, total: int) -> Callable[[int], None]:
    return lambda here: tell((done + here) / total)


def _fetch_file(url: str, blob: Path, size: int, tell: Callable[[int], None]) -> None:
    """Fetch a file of ``size`` bytes as ``blob``, going on where an earlier try was cut short."""
    if _is_whole(blob, size):
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.incomplete")
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointUnavailable(f"another process is fetching {url}") from None
        except OSError:  # a file system without locks
            pass
        if _is_whole(blob, size):  # another process had the lock until now
            return
        if file.tell() > size:
            file.truncate(0)
        if file.tell() < size:
            _receive(url, file, size, tell)
        if file.tell() != size:
            raise OSError(f"{file.tell()} of {size} bytes came from {url}")
        file.flush()
        part.replace(blob)


def _receive(url: str, file: BinaryIO, size: int, tell: Callable[[int], None]) -> None:
    # Compressed, its bytes could not be counted.
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    with get_session().stream("GET", url, headers=headers) as response:
        if response.status_code != 206:  # the whole file, whatever was asked for
            file.truncate(0)
        told = file.tell()
        for piece in response.iter_raw():
            file.write(piece)
            if file.tell() > size:
                break
            if file.tell() - told >= HEADWAY_BYTES:
                told = file.tell()
                tell(told)


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except FileNotFoundError:
        return False


def _link(path: Path, blob: Path) -> None:
    """Make ``path`` the name of a blob, as the library does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))


def _write(path: Path, text: str) -> None:
    """Make this the text of a file, at once; the cache may be read-only if it is so already."""
    if path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    new.write_text(text)
    new.replace(path)


def _content_of(entry: RepoFile) -> str:
    """The name that the library gives a file's content in the cache."""
    return entry.lfs.sha256 if entry.lfs else entry.blob_id


def _checked(name: str) -> str:
    """A hash from the hub, which becomes the name of a file here."""
    if not re.fullmatch(r"[0-9a-fA-F]{40,64}", name):
        raise ValueError(f"the hub's answer makes no sense: {name[:80]!r} is no hash")
    return name


def _client() -> Any:
    """The library's own HTTP client, with timeouts whatever it says, and without its retries."""
    client = default_client_factory()
    client.event_hooks["request"].append(_limit)
    client.event_hooks["response"].append(_refuse)
    return client


def _limit(request: Any) -> None:
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = dict.fromkeys(kinds, SILENCE_SECONDS)


def _refuse(response: Any) -> None:
    if response.status_code >= 400:
        response.read()
        hf_raise_for_status(response)


set_client_factory(_client)
