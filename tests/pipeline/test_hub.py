"""Checkpoints from the hub, against a small server that speaks the few routes that are needed."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pytest

from app.errors import CheckpointError, CheckpointUnavailable
from app.pipeline import hub
from tests.checkpoints import make_checkpoint

REPOSITORY = "someone/image-variations"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as :data:`REPOSITORY` at revision ``v2.0``."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        api = f"/api/models/{REPOSITORY}"
        if path in {f"{api}/revision/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(), body)
        elif path in {f"{api}/tree/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps([self._entry(name) for name in self.server.files]).encode(), body)
        elif (name := path.rpartition(f"/{REPOSITORY}/resolve/")[2].partition("/")[2]) in (
            self.server.files
        ):
            if body:
                self.server.fetched.append(name)
            self._send(self.server.files[name], body, _etag(self.server.files[name]))
        else:
            self._send(b'{"error": "not found"}', body, status=404, error="RepoNotFound")

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}

    def _send(
        self, content: bytes, body: bool, etag: str = "", *, status: int = 200, error: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture(params=[True, False], ids=["safetensors", "pickles"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository with more in it than is needed."""
    folder = make_checkpoint(tmp_path / "repository", safetensors=request.param)
    for name in ("README.md", "alias-montage.jpg", "unet/diffusion_pytorch_model.fp16.bin"):
        (folder / name).write_bytes(b"\0" * 3_000_000)
    for name in ("text_encoder/pytorch_model.bin", "vae/diffusion_pytorch_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(b"\0" * 1000)
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        # The library reads its environment when it is imported, so its constants are set instead.
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + _RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


_RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


def test_what_is_needed_is_fetched_with_progress_and_then_kept(server: Hub, folder: Path) -> None:
    told: list[tuple[str, float | None]] = []
    found = hub.find_checkpoint(REPOSITORY, "v2.0", lambda *report: told.append(report))
    assert sorted(server.fetched) == sorted(hub.needed_files(server.files))
    assert not {"README.md", "unet/diffusion_pytorch_model.fp16.bin"} & set(server.fetched)
    for name in server.fetched:
        assert (found / name).read_bytes() == server.files[name]
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert told[0] == ("downloading", None)
    assert len(fractions) >= 5
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    server.fetched.clear()
    assert hub.find_checkpoint(REPOSITORY, "v2.0", lambda *_: None) == found
    assert server.fetched == []


def test_without_the_hub_what_was_fetched_before_is_served(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hub.find_checkpoint(REPOSITORY, "v2.0", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.find_checkpoint(REPOSITORY, "v2.0", lambda *_: None) == found


def test_without_the_hub_what_was_fetched_in_part_is_not_served(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(hub.find_checkpoint(REPOSITORY, "v2.0", lambda *_: None) / "vae")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointUnavailable):
        hub.find_checkpoint(REPOSITORY, "v2.0", lambda *_: None)


def test_a_repository_that_is_not_there_is_a_clear_error(server: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"nobody/nothing at revision 'v9' cannot be fetched"):
        hub.find_checkpoint("nobody/nothing", "v9", lambda *_: None)


def test_safetensors_are_preferred_part_by_part_and_variants_left() -> None:
    files = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "image_encoder/pytorch_model-00001-of-00002.bin",
        "image_encoder/pytorch_model.bin.index.json",
        "safety_checker/pytorch_model.bin",
        "text_encoder/model.safetensors",
        "README.md",
    ]
    parts = [part for part in hub.PARTS if part != "safety_checker"]
    assert hub.needed_files(files, parts) == [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "image_encoder/pytorch_model-00001-of-00002.bin",
        "image_encoder/pytorch_model.bin.index.json",
    ]
