"""Checkpoints that are loaded, and those that are refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from app.errors import CheckpointError
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.devices import Dtypes
from app.pipeline.known import FACTS, known
from tests.support.checkpoints import keep_only_half_precision, make_checkpoint
from tests.support.permissions import needs_linux, permissions_hold

FLOAT32 = Dtypes(torch.float32, torch.float32)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def load(folder: Path, *, safety_checker: bool = True) -> Parts:
    return load_parts(folder, FLOAT32, safety_checker)


def test_pickles_under_the_names_of_2022_give_the_weights_that_safetensors_give(
    tiny_folder: Path, tmp_path: Path
) -> None:
    pickled = make_checkpoint(tmp_path / "pickled", safetensors=False)
    assert (pickled / "unet" / "diffusion_pytorch_model.bin").exists()
    assert not list(pickled.rglob("*.safetensors"))
    ours, theirs = load(tiny_folder), load(pickled)
    for part in ("unet", "vae", "image_encoder", "safety_checker"):
        weights, others = (getattr(p, part).state_dict() for p in (ours, theirs))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_half_precision_variant_beside_pickles_is_left_alone(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "pickled", safetensors=False)
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"nothing")
    load(folder)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "safety_checker"])
@pytest.mark.parametrize("how", ["torch.save", "pickle.dump"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    folder: Path, tmp_path: Path, part: str, how: str
) -> None:
    proof = tmp_path / "it ran"
    for weights in (folder / part).glob("*.safetensors"):
        name = "diffusion_pytorch_model.bin" if part in {"unet", "vae"} else "pytorch_model.bin"
        content = {"conv_in.weight": Malicious(proof)}
        if how == "torch.save":
            torch.save(content, folder / part / name)
        else:
            (folder / part / name).write_bytes(pickle.dumps(content))
        weights.unlink()
    with pytest.raises(CheckpointError, match="pickle that asks to run code"):
        load(folder)
    assert not proof.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "safety_checker"])
def test_a_malicious_shard_is_refused_and_does_not_run(
    folder: Path, tmp_path: Path, part: str
) -> None:
    proof = tmp_path / "it ran"
    (weights,) = (folder / part).glob("*.safetensors")
    names = list(load_file(weights))
    weights.unlink()
    stem = "pytorch_model" if weights.stem == "model" else weights.stem
    shards = [f"{stem}-0000{number}-of-00002.bin" for number in (1, 2)]
    torch.save({}, folder / part / shards[0])
    torch.save({names[0]: Malicious(proof)}, folder / part / shards[1])
    weight_map = {**dict.fromkeys(names, shards[1]), names[-1]: shards[0]}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / part / f"{stem}.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="pickle that asks to run code"):
        load(folder)
    assert not proof.exists()


@pytest.mark.parametrize(
    "config",
    [
        *(f"{part}/config.json" for part in ("unet", "vae", "image_encoder", "safety_checker")),
        "feature_extractor/preprocessor_config.json",
    ],
)
def test_code_that_a_checkpoint_brings_along_does_not_run(
    folder: Path, tmp_path: Path, config: str
) -> None:
    proof, file = tmp_path / "it ran", folder / config
    (file.parent / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoFeatureExtractor")
    content = json.loads(file.read_text())
    content |= {"auto_map": dict.fromkeys(names, "evil.Evil"), "trust_remote_code": True}
    file.write_text(json.dumps(content))
    load(folder)
    assert not proof.exists()


def test_without_a_safety_checker_it_has_to_be_switched_off(folder: Path) -> None:
    shutil.rmtree(folder / "safety_checker")
    with pytest.raises(CheckpointError, match="VARIATIONS_SAFETY_CHECKER=off"):
        load(folder)
    assert load(folder, safety_checker=False).safety_checker is None


def test_switched_off_the_safety_checker_is_not_loaded(folder: Path) -> None:
    assert load(folder, safety_checker=False).safety_checker is None


def test_further_parts_and_another_pipeline_class_do_no_harm(folder: Path) -> None:
    for name in ("text_encoder", "text_processor"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImageEmbedPipeline"
    index["text_encoder"] = ["lambda_diffusers", "Something"]
    (folder / "model_index.json").write_text(json.dumps(index))
    load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder", "scheduler", "feature_extractor"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"incomplete: .*{part}"):
        load(folder)


def test_a_part_of_another_class_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    shutil.copytree(folder / "vae", folder / "unet")
    with pytest.raises(CheckpointError, match=r"holds AutoencoderKL.*UNet2DConditionModel"):
        load(folder)


def test_missing_weights_are_named_not_drawn_at_random(folder: Path) -> None:
    for part in ("image_encoder", "vae"):
        copy = Path(shutil.copytree(folder, folder.parent / f"without-{part}"))
        path = next((copy / part).glob("*.safetensors"))
        whole = load(folder)
        weights = getattr(whole, part).state_dict()
        weights.pop(sorted(weights)[0])
        path.unlink()
        name = "diffusion_pytorch_model.bin" if part == "vae" else "pytorch_model.bin"
        torch.save(weights, copy / part / name)
        with pytest.raises(CheckpointError, match="incomplete"):
            load(copy)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    unet = load(folder).unet
    unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    unet.save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match=r"not finite, conv_in\.weight"):
        load(folder)


def test_weights_that_are_cut_short_are_refused(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"unet.* cannot be loaded"):
        load(folder)


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text("[1,")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


def test_parts_of_different_checkpoints_are_refused(folder: Path) -> None:
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match=r"conditions of 8 numbers .* makes 24"):
        load(folder)


# Files that are none


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.touch()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to("nothing")


FILES = [
    "unet/config.json",
    "image_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "safety_checker/config.json",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
]


@pytest.mark.parametrize("instead", [_fifo, _endless, _folder, _empty, _huge, _loop, _dangling])
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_of_a_plausible_size_are_read(
    folder: Path, name: str, instead: Callable[[Path], None]
) -> None:
    (folder / name).unlink()
    instead(folder / name)
    with pytest.raises(CheckpointError, match=name):
        load(folder)


@pytest.mark.parametrize("instead", [_fifo, _endless, _folder])
def test_files_that_loading_does_not_need_are_not_opened(
    folder: Path, instead: Callable[[Path], None]
) -> None:
    for part in ("unet", "image_encoder", "safety_checker"):
        for name in ("adapter_config.json", "generation_config.json", "pytorch_model.bin"):
            instead(folder / part / name)
    load(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438354725\n"


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.bin",
        "image_encoder/pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
        "safety_checker/model.fp16.safetensors",
        "unet/config.json",
    ],
)
def test_a_git_lfs_pointer_is_named_with_what_to_do(folder: Path, name: str) -> None:
    if not name.endswith("config.json"):
        next((folder / name).parent.glob("*.safetensors")).unlink()
    (folder / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer .*`git lfs pull`"):
        load(folder)


@needs_linux
@pytest.mark.parametrize(
    "name", ["", "unet", "unet/config.json", "vae/diffusion_pytorch_model.safetensors", FILES[-2]]
)
def test_what_may_not_be_read_is_named_with_what_to_do(folder: Path, name: str) -> None:
    load(folder)
    mode = (folder / name).stat().st_mode
    (folder / name).chmod(0)
    with permissions_hold(), pytest.raises(CheckpointError) as caught:
        load(folder)
    (folder / name).chmod(mode)
    assert type(caught.value) is CheckpointError
    assert f"{folder / name}" in caught.value.message
    assert "Permission denied; let the user" in caught.value.message


# Configs


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "image_encoder/config.json",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000 + "1" + "}" * 200_000, '{"a": NaN}', "[1]", '{"a'],
    ids=["lists", "objects", "no number", "a list", "cut"],
)  # fmt: skip
def test_a_config_that_cannot_be_read_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=name):
        load(folder)


MANY = 10**6
HUGE = 10**9


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickles"])
@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"layers_per_block": MANY}),
        ("unet", {"transformer_layers_per_block": MANY}),
        ("unet", {"block_out_channels": [2**20, 2**20]}),
        ("unet", {"block_out_channels": [HUGE * 8, HUGE * 8]}),
        ("unet", {"cross_attention_dim": HUGE}),
        ("vae", {"layers_per_block": MANY}),
        ("vae", {"latent_channels": HUGE}),
        ("image_encoder", {"num_hidden_layers": MANY}),
        ("image_encoder", {"intermediate_size": HUGE}),
        ("image_encoder", {"image_size": HUGE}),
        ("safety_checker", {"vision_config": {"num_hidden_layers": MANY}}),
        ("safety_checker", {"vision_config_dict": {"hidden_size": HUGE * 12}}),
        ("safety_checker", {"projection_dim": HUGE}),
    ],
)
def test_a_config_that_asks_for_far_more_than_the_weights_hold_is_refused(
    tiny_folder: Path, tmp_path: Path, pickled: bool, part: str, changes: dict[str, object]
) -> None:
    if pickled:
        folder = make_checkpoint(tmp_path / "pickled", safetensors=False)
    else:
        folder = Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
    _change(folder / part / "config.json", **changes)
    with pytest.raises(CheckpointError, match=f"the weights in {folder / part}"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("unet/config.json", {"sample_size": MANY}),
        ("unet/config.json", {"sample_size": [16, 0]}),
        ("unet/config.json", {"sample_size": None}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": HUGE}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "1000"}),
        (FILES[-2], {"crop_size": MANY}),
        (FILES[-2], {"size": {"shortest_edge": MANY}}),
        (FILES[-2], {"image_mean": [0.5] * MANY}),
        (FILES[-2], {"image_std": [1e999] * 3}),
    ],
)
def test_numbers_that_no_weights_bear_out_are_held_in_ranges(
    folder: Path, name: str, changes: dict[str, object]
) -> None:
    (folder / name).write_text(
        json.dumps(json.loads((folder / name).read_text()) | changes).replace("Infinity", "1e999")
    )
    with pytest.raises(CheckpointError, match=rf"{name}: {next(iter(changes))} is "):
        load(folder)


@pytest.mark.parametrize(
    "changes", [{"guidance_scale": -1}, {"num_inference_steps": HUGE}, {"scheduler": "none"}]
)
def test_facts_out_of_range_are_refused(folder: Path, changes: dict[str, object]) -> None:
    (folder / FACTS).write_text(json.dumps(changes))
    with pytest.raises(CheckpointError, match=f"{FACTS} is not valid: {next(iter(changes))}"):
        known(str(folder), folder)


def test_facts_that_are_no_file_are_refused(folder: Path) -> None:
    for instead in (_fifo, _endless, _folder):
        instead(folder / FACTS)
        with pytest.raises(CheckpointError, match=f"{FACTS} is a"):
            known(str(folder), folder)
        (folder / FACTS).rmdir() if instead is _folder else (folder / FACTS).unlink()
    (folder / FACTS).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=FACTS):
        known(str(folder), folder)


@pytest.mark.parametrize("part", ["unet", "image_encoder", "safety_checker"])
def test_no_quantizer_is_run_whatever_a_config_says(folder: Path, part: str) -> None:
    _change(folder / part / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match="quantization_config; only weights that are not"):
        load(folder)


_FAKE_KERNELS = """
from pathlib import Path
from unittest.mock import MagicMock
__version__ = "0.18.5"
def get_kernel(*args, **options):
    Path(__file__).with_name("it ran").touch()
    raise RuntimeError("a kernel was fetched")
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    if name.startswith(("use_", "replace_")):
        return lambda *args, **options: lambda decorated: decorated
    return MagicMock()
"""


def test_no_kernels_are_fetched_whatever_a_config_says(folder: Path, tmp_path: Path) -> None:
    kernel = "kernels-community/kernel"
    for name in ("unet/config.json", "vae/config.json", "image_encoder/config.json", FILES[-2]):
        _change(folder / name, **dict.fromkeys(ATTENTION, kernel), fusion_config={"a": True})
    vision = json.loads((folder / "safety_checker/config.json").read_text())["vision_config"]
    inner = {**vision, **dict.fromkeys(ATTENTION, kernel)}
    _change(folder / "safety_checker/config.json", vision_config=inner, **inner)
    packages = tmp_path / "packages"
    (packages / "kernels").mkdir(parents=True)
    (packages / "kernels" / "__init__.py").write_text(_FAKE_KERNELS)
    info = packages / "kernels-0.18.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.5\n")
    code = (
        f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        "from pathlib import Path\nimport kernels, torch\n"
        "from app.pipeline.checkpoint import load_parts\n"
        "from app.pipeline.devices import Dtypes\n"
        f"load_parts(Path({str(folder)!r}), Dtypes(torch.float32, torch.float32), True)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (packages / "kernels" / "it ran").exists()


ATTENTION = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")


# Weights


def _shard(folder: Path, part: str) -> Path:
    """Cut a part's weights into shards; the path of their index."""
    module = getattr(load(folder), part)
    for path in (folder / part).iterdir():
        path.unlink()
    module.save_pretrained(folder / part, max_shard_size="50KB")
    return next((folder / part).glob("*.index.json"))


@pytest.mark.parametrize("part", ["unet", "image_encoder"])
def test_shards_give_the_weights_that_one_file_gives(folder: Path, part: str) -> None:
    whole = getattr(load(folder), part).state_dict()
    assert _shard(folder, part).exists()
    assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
    found = getattr(load(folder), part).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("named", ["../../elsewhere.safetensors", "/etc/passwd", 7])
def test_an_index_that_names_other_files_than_the_shards_is_refused(
    folder: Path, named: object
) -> None:
    index = _shard(folder, "unet")
    content = json.loads(index.read_text())
    content["weight_map"] |= {"conv_in.weight": named}
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{index.name} names {named!r}"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "image_encoder"])
def test_a_shard_that_is_not_there_is_named(folder: Path, part: str) -> None:
    _shard(folder, part)
    next((folder / part).glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=f"weights in {part} .*with all shards"):
        load(folder)


@pytest.mark.parametrize("parts", [("unet",), ("vae", "image_encoder"), ("safety_checker",)])
def test_half_precision_is_taken_for_the_parts_that_have_no_other(
    folder: Path, parts: tuple[str, ...]
) -> None:
    whole = load(folder)
    keep_only_half_precision(folder, parts)
    found = load(folder)
    for part in ("unet", "vae", "image_encoder", "safety_checker"):
        theirs = getattr(found, part).state_dict()
        for name, weight in getattr(whole, part).state_dict().items():
            expected = (
                weight.half().float() if part in parts and weight.is_floating_point() else weight
            )
            assert torch.equal(theirs[name], expected), name


def test_weights_that_grow_when_they_are_unpacked_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "pickled", safetensors=False)
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {each.filename: archive.read(each) for each in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="is compressed, which weights are not"):
        load(folder)


def test_pickles_as_torch_wrote_them_first_are_loaded(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "pickled", safetensors=False)
    for path in folder.rglob("*.bin"):
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    load(folder)


def test_a_pickle_that_repeats_one_number_holds_no_more_than_its_bytes(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "pickled", safetensors=False)
    torch.save({"a": torch.zeros(1).expand(HUGE)}, folder / "vae" / "diffusion_pytorch_model.bin")
    _change(folder / "vae" / "config.json", block_out_channels=[2**13] * 3)
    with pytest.raises(CheckpointError, match=r"asks for .* numbers or more .* hold [0-9]{3,4}$"):
        load(folder)
