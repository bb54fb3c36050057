"""Checkpoints from the hub, against a small server that speaks the few routes that are needed."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

from app.errors import CheckpointError, CheckpointUnavailable
from app.pipeline import download
from app.pipeline.checkpoint import load_parts
from app.pipeline.devices import choose_device, choose_dtypes
from app.pipeline.files import PARTS, needed_files
from app.pipeline.hub import find_checkpoint
from tests.support import hub
from tests.support.checkpoints import keep_only_half_precision, make_checkpoint
from tests.support.hub import REPOSITORY, Hub, Refusal
from tests.support.permissions import needs_linux, permissions_hold


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with more in it than is needed."""
    return _repository(tmp_path / "repository", safetensors=True)


def _repository(folder: Path, *, safetensors: bool) -> Path:
    make_checkpoint(folder, safetensors=safetensors)
    for name in ("README.md", "alias-montage.jpg", "unet/diffusion_pytorch_model.fp16.bin"):
        (folder / name).write_bytes(b"\0" * 3_000_000)
    for name in ("text_encoder/pytorch_model.bin", "vae/diffusion_pytorch_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(b"\0" * 1000)
    return folder


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], Hub]:
    """Makes a hub the one that the library asks, with a cache of the test's own."""

    def serve(server: Hub) -> Hub:
        # The library reads its environment when it is imported, so its constants are set instead.
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + _RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.chdir(tmp_path)
        return server

    return serve


_RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def server(folder: Path, serve: Callable[[Hub], Hub]) -> Iterator[Hub]:
    with hub.hub(folder) as server:
        yield serve(server)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a hub that says nothing."""
    monkeypatch.setattr(download, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(download, "STALL_SECONDS", 3.0)


def find(model: str = REPOSITORY, revision: str | None = "v2.0") -> Path:
    return find_checkpoint(model, revision, lambda *_: None)


def refused(model: str = REPOSITORY, revision: str | None = "v2.0") -> str:
    """The words with which it is refused for good."""
    with pytest.raises(CheckpointError) as caught:
        find(model, revision)
    assert not isinstance(caught.value, CheckpointUnavailable), caught.value
    return caught.value.message


def not_now(model: str = REPOSITORY, revision: str | None = "v2.0") -> str:
    """The words with which it is put off."""
    with pytest.raises(CheckpointUnavailable) as caught:
        find(model, revision)
    return caught.value.message


def cached(server: Hub, name: str) -> Path:
    """A file of a checkpoint that was fetched."""
    return find() / next(path for path in server.fetched if path.startswith(name))


@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "pickles"])
def test_what_is_needed_is_fetched_with_progress_and_then_kept(
    tmp_path: Path, serve: Callable[[Hub], Hub], safetensors: bool
) -> None:
    with hub.hub(_repository(tmp_path / "repository", safetensors=safetensors)) as server:
        serve(server)
        told: list[tuple[str, float | None]] = []
        found = find_checkpoint(REPOSITORY, "v2.0", lambda *report: told.append(report))
        assert sorted(server.fetched) == sorted(needed_files(server.files))
        assert not {"README.md", "unet/diffusion_pytorch_model.fp16.bin"} & set(server.fetched)
        for name in server.fetched:
            assert (found / name).read_bytes() == server.files[name]
        fractions = [fraction for _, fraction in told if fraction is not None]
        assert told[0] == ("downloading", None)
        assert len(fractions) >= 5
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0

        server.fetched.clear()
        assert find() == found
        assert server.fetched == []


def test_the_librarys_own_download_finds_all_in_its_cache(server: Hub) -> None:
    found = find()
    server.fetched.clear()
    names = needed_files(server.files)
    kept = huggingface_hub.snapshot_download(REPOSITORY, revision="v2.0", allow_patterns=names)
    assert (Path(kept), server.fetched) == (found, [])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("mood", ["silent", "slow head", "slow body", "gone"])
def test_a_hub_that_does_not_answer_leaves_the_cache_to_be_served(
    server: Hub, mood: hub.Mood
) -> None:
    found = find()
    server.mood = mood
    assert find() == found


def test_a_hub_that_refuses_by_now_leaves_the_cache_to_be_served(server: Hub) -> None:
    found = find()
    server.refusal = Refusal(401, "GatedRepo", "Access to it is restricted")
    assert find() == found


def test_without_the_hub_what_was_fetched_before_is_served(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find() == found


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.resolve().write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("how", ["remove", "cut", "dangle"])
@pytest.mark.parametrize(
    "name", ["vae/config.json", "unet/diffusion", "scheduler/", "feature_extractor/"]
)
def test_what_the_cache_has_in_part_is_not_served_and_mended_once_the_hub_is_back(
    server: Hub, name: str, how: str
) -> None:
    path = cached(server, name)
    content = path.read_bytes()
    {"remove": path.unlink, "cut": lambda: _cut(path), "dangle": path.resolve().unlink}[how]()
    server.mood = "gone"
    assert name.partition("/")[0] in not_now()
    server.mood = "well"
    find()
    assert path.read_bytes() == content


def test_a_cache_without_one_of_the_shards_in_their_index_is_not_served(
    folder: Path, serve: Callable[[Hub], Hub]
) -> None:
    choose_device("cpu")
    parts = load_parts(folder, choose_dtypes("float32", choose_device("cpu"), None), True)
    for path in (folder / "unet").iterdir():
        path.unlink()
    parts.unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    with hub.hub(folder) as server:
        serve(server)
        found = find()
        assert (found / "unet/diffusion_pytorch_model.safetensors.index.json").exists()
        load_parts(found, choose_dtypes("float32", choose_device("cpu"), None), True)
        cached(server, "unet/diffusion_pytorch_model-00002").unlink()
        server.mood = "gone"
        assert "weights in unet" in not_now()


@pytest.mark.parametrize("again", ["well", "gone"])
def test_a_download_that_is_cut_short_goes_on_where_it_was(server: Hub, again: hub.Mood) -> None:
    weights = next(n for n in needed_files(server.files) if n.startswith("unet/diffusion"))
    server.cuts[weights] = 100_000
    assert "no folder" not in not_now()
    server.mood = again
    if again != "well":
        not_now()
    server.mood = "well"
    found = find()
    assert server.ranges == {weights: 100_000}
    assert (found / weights).read_bytes() == server.files[weights]
    assert server.fetched.count("unet/config.json") == 1


@pytest.mark.usefixtures("impatient")
def test_a_first_download_from_a_hub_that_falls_silent_is_put_off(server: Hub) -> None:
    server.mood = "silent"
    words = not_now()
    assert "does not answer" in words
    assert f"no folder '{REPOSITORY}'" in words
    server.mood = "well"
    assert find().is_dir()


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_is_asked_again_later_by_us_alone(server: Hub, status: int) -> None:
    server.refusal = Refusal(status, message="too much", headers=(("Retry-After", "3600"),))
    assert "too much" in not_now()


_GATED = "Access to model someone/image-variations is restricted"
_AWAITING = "Your request to access it is awaiting a review from the repo authors"


@pytest.mark.parametrize(
    ("refusal", "token", "words"),
    [
        (Refusal(404, "RepoNotFound", "Repository not found"), "", "no token is given"),
        (Refusal(401, "RepoNotFound", "Invalid username or password"), "", "VARIATIONS_MODEL"),
        (Refusal(404, "RepoNotFound", "Repository not found"), "hf_x", "does not open it"),
        (Refusal(404, "RevisionNotFound", "Invalid rev id: v2.0"), "", "VARIATIONS_REVISION"),
        (Refusal(401, "GatedRepo", _GATED), "", "no token is given: ask for access on http"),
        (Refusal(403, "GatedRepo", _AWAITING), "hf_x", "not let in: ask for access on http"),
        (Refusal(401, "", "Invalid credentials in Authorization header"), "hf_x", "valid token"),
        (Refusal(403, "", "This token lacks the permission"), "hf_x", "status 403 with the token"),
        (Refusal(403, "", "Access to this resource is disabled."), "", "status 403 with no token"),
    ],
)
def test_a_refusal_is_final_and_tells_what_the_hub_says_and_what_to_do(
    server: Hub, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, token: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.refusal = refusal
    said = refused()
    assert f"{REPOSITORY} at revision 'v2.0' cannot be fetched from the hub" in said
    assert words in said
    assert refusal.message in said
    assert "hf_x" not in said
    assert "\n" not in said


@pytest.mark.usefixtures("server")
def test_a_repository_that_is_not_there_is_a_clear_error() -> None:
    assert "nobody/nothing at revision 'v9' cannot be fetched" in refused("nobody/nothing", "v9")


@pytest.mark.parametrize("model", ["models/demo", "checkpoints/mine"])
def test_a_mistyped_folder_that_looks_like_a_repository_is_told_as_both(
    server: Hub, tmp_path: Path, model: str
) -> None:
    for words in (refused(model, None), _unreachable(server, model)):
        assert f"there is no folder {model!r} in {tmp_path}" in words
        assert f"{model} at revision 'main'" in words


def _unreachable(server: Hub, model: str) -> str:
    server.mood = "gone"
    return not_now(model, None)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "model", ["./checkpoint", "../a", "a/", "a/b/c", "a/..", "a--b/c", "é/b", "/no/such", "demos"]
)
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(server: Hub, model: str) -> None:
    server.mood = "silent"
    assert f"there is no folder {model!r}" in refused(model)


@pytest.mark.usefixtures("server")
def test_a_file_or_a_home_of_nobody_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "v1-5.ckpt").touch()
    assert "models/v1-5.ckpt is a file" in refused("models/v1-5.ckpt")
    assert "there is no folder '~nobody-at-all/x'" in refused("~nobody-at-all/x")


def _drop(server: Hub, *prefixes: str) -> None:
    server.files = {n: c for n, c in server.files.items() if not n.startswith(prefixes)}


def _text_to_image(server: Hub) -> None:
    _drop(server, "image_encoder")


def _no_unet(server: Hub) -> None:
    _drop(server, "unet")


def _no_checker(server: Hub) -> None:
    _drop(server, "safety_checker")


def _no_config(server: Hub) -> None:
    _drop(server, "vae/config.json")


def _no_shard(server: Hub) -> None:
    _drop(server, "image_encoder/model")
    server.files["image_encoder/pytorch_model-00001-of-00002.bin"] = b"PK"
    server.files["image_encoder/pytorch_model.bin.index.json"] = b"{}"


def _flax(server: Hub) -> None:
    _drop(server, "vae/diffusion")
    server.files["vae/diffusion_flax_model.msgpack"] = b"x" * 1000


def _onnx(server: Hub) -> None:
    _drop(server, "unet/diffusion")
    server.files["unet/model.onnx"] = b"x" * 1000


def _one_file(server: Hub) -> None:
    server.files = {"README.md": b"hello", "v1-5-pruned.ckpt": b"x" * 1000}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_text_to_image, r"image_encoder/config\.json.* makes pictures from text"),
        (_no_unet, r"unet/config\.json"),
        (_no_checker, "VARIATIONS_SAFETY_CHECKER=off"),
        (_no_config, r"vae/config\.json"),
        (_no_shard, "weights in image_encoder .*00001-of-00002"),
        (_flax, r"weights in vae .*diffusion_flax_model\.msgpack"),
        (_onnx, r"weights in unet .*model\.onnx"),
        (_one_file, r"v1-5-pruned\.ckpt must be converted"),
    ],
)
def test_a_repository_that_can_never_be_served_is_refused_by_its_list_of_files(
    server: Hub, change: Callable[[Hub], None], words: str
) -> None:
    change(server)
    with pytest.raises(CheckpointError, match=f"{REPOSITORY} at revision 'v2.0' .*{words}"):
        find()
    assert server.fetched == []


@pytest.mark.parametrize("parts", [PARTS[:4], ("image_encoder",)])
@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "pickles"])
def test_parts_of_half_precision_alone_are_fetched_and_loaded(
    tmp_path: Path, serve: Callable[[Hub], Hub], safetensors: bool, parts: tuple[str, ...]
) -> None:
    folder = make_checkpoint(tmp_path / "repository", safetensors=safetensors)
    keep_only_half_precision(folder, parts)
    with hub.hub(folder) as server:
        serve(server)
        for found in (find(), folder):
            loaded = load_parts(found, choose_dtypes("float32", choose_device("cpu"), None), True)
            assert loaded.unet.conv_in.weight.abs().sum() > 0


@pytest.mark.usefixtures("server")
def test_offline_with_nothing_in_the_cache_there_is_no_use_in_another_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    words = refused()
    assert "HF_HUB_OFFLINE is set" in words
    assert "it is not there" in words


@needs_linux
def test_a_cache_that_may_not_be_written_or_read_is_told_for_good(
    server: Hub, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with permissions_hold():
        assert f"Permission denied: '{cache}" in refused()
    cache.chmod(0o700)
    found = find()
    cache.chmod(0o500)
    with permissions_hold():
        assert find() == found
    next(cache.glob("models--*")).chmod(0o000)
    with permissions_hold():
        assert "Permission denied" in refused()
    cache.chmod(0o700)
    next(cache.glob("models--*")).chmod(0o700)


def test_a_cache_that_is_no_folder_is_told_for_good(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert "set HF_HOME to another folder" in refused()
    assert server.fetched == []


def test_a_store_that_the_hub_refers_to_may_refuse_for_a_while(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.hub(folder) as store:
        monkeypatch.setenv("HF_TOKEN", "hf_x")
        store.refusal = Refusal(403, "", "Request has expired")
        server.store = store.url
        assert "Request has expired" in not_now()
        store.refusal = None
        assert find().is_dir()
        assert store.fetched
        assert server.authorized
        assert not store.authorized


def test_another_process_that_fetches_the_same_file_is_waited_for(server: Hub) -> None:
    weights = next(n for n in needed_files(server.files) if n.startswith("unet/diffusion"))
    server.cuts[weights] = 1000
    not_now()
    part = next(Path(huggingface_hub.constants.HF_HUB_CACHE).rglob("*.incomplete"))
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process is fetching" in not_now()
    assert (find() / weights).read_bytes() == server.files[weights]
    assert not os.path.lexists(part)


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
    parts = [part for part in PARTS if part != "safety_checker"]
    assert needed_files(files, parts) == [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "image_encoder/pytorch_model-00001-of-00002.bin",
        "image_encoder/pytorch_model.bin.index.json",
    ]
