"""Checkpoints that are loaded, and those that are refused."""

import json
import pickle
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from app.errors import CheckpointError
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.devices import Dtypes
from tests.support.checkpoints import make_checkpoint

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
