"""The files of a checkpoint that are chosen, by their names alone."""

import pytest

from app.pipeline.files import chosen_weights, lacking, needed_files

SHARDS = ("-00001-of-00002", "-00002-of-00002")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
        (["model.fp16.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
        (["model.fp16.safetensors", "pytorch_model.fp16.bin"], "model.fp16.safetensors"),
        (["model.bf16.safetensors", "model.fp16.safetensors"], "model.fp16.safetensors"),
        (["model.bf16.safetensors", "model.non_ema.safetensors"], "model.bf16.safetensors"),
        # Shards are worth nothing without all the others and their index.
        (["model-00001-of-00002.safetensors", "pytorch_model.fp16.bin"], "pytorch_model.fp16.bin"),
        ([f"model{each}.safetensors" for each in SHARDS] + ["model.fp16.bin"], "model.fp16.bin"),
    ],
)
def test_of_several_weights_the_fullest_and_safest_are_taken(names: list[str], chosen: str) -> None:
    weights = chosen_weights(names)
    assert weights is not None
    assert weights.files == (chosen,)
    assert weights.complete


@pytest.mark.parametrize(
    ("shard", "index"),
    [
        ("model{}.safetensors", "model.safetensors.index.json"),
        ("diffusion_pytorch_model{}.bin", "diffusion_pytorch_model.bin.index.json"),
        ("model.fp16{}.safetensors", "model.safetensors.index.fp16.json"),
        ("model{}.fp16.safetensors", "model.fp16.safetensors.index.json"),
    ],
)
def test_shards_are_taken_with_their_index_wherever_the_variant_stands(
    shard: str, index: str
) -> None:
    names = [shard.format(each) for each in SHARDS]
    weights = chosen_weights([*names, index])
    assert weights is not None
    assert (weights.files, weights.index, weights.complete) == (tuple(names), index, True)
    incomplete = chosen_weights(names)
    assert incomplete is not None
    assert not incomplete.complete


@pytest.mark.parametrize("name", ["model.ckpt", "model.non_ema.bin", "model.onnx", "optimizer.bin"])
def test_what_are_no_weights_are_not_taken(name: str) -> None:
    assert chosen_weights([name]) is None
    assert needed_files([f"unet/{name}", f"unet/deeper/{name}"]) == []
    assert f"weights in unet (it has {name};" in (lacking([f"unet/{name}"], ["unet"]) or "")
