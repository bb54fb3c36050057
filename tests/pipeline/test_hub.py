"""Checkpoints from the hub, against a small server that speaks the few routes that are needed."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from app.errors import CheckpointError, CheckpointUnavailable
from app.pipeline import hub
from tests.support.checkpoints import make_checkpoint
from tests.support.hub import REPOSITORY, Hub


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
