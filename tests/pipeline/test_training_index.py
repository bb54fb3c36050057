"""An index of training pictures: which variations it marks, and what of it is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.errors import TrainingIndexError
from app.ipc.messages import LoadFailed
from app.parameters import ModelConfig, NearDuplicate
from app.pipeline import Decoded
from app.pipeline.descriptors import Outline, Sscd
from app.pipeline.training_index import NOT_COMPARED, TrainingIndex, write_index
from tests.support.pipelines import draw
from tests.support.workers import start_message, worker_process

TRAINED = [draw(seed) for seed in range(6)]
NAMES = [f"folder/{seed}.png" for seed in range(6)]


def written(folder: Path) -> Path:
    descriptor = Outline()
    write_index(folder, descriptor, descriptor(TRAINED), NAMES, threshold=0.9)
    return folder


def opened(folder: Path, *, names: bool = False) -> TrainingIndex:
    config = ModelConfig(training_index=str(folder), training_names=names)
    index = TrainingIndex.of(config, torch.device("cpu"))
    assert index
    return index


def test_a_near_copy_is_marked_with_its_score_and_what_it_is_a_copy_of(tmp_path: Path) -> None:
    index = opened(written(tmp_path), names=True)
    copy, other = TRAINED[4] // 8 * 8, draw(99)

    marked = index.mark([Decoded(other), Decoded(None, flagged=True), Decoded(copy)])

    assert [one.near_duplicate for one in marked[:2]] == [None, None]
    assert marked[1].flagged
    assert marked[2].picture is copy
    near = marked[2].near_duplicate
    assert near == NearDuplicate(near.score if near else 0, 0.9, "folder/4.png")
    assert 0.9 <= near.score <= 1


def test_names_of_training_pictures_are_told_only_where_that_is_allowed(tmp_path: Path) -> None:
    index = opened(written(tmp_path))

    [marked] = index.mark([Decoded(TRAINED[4])])

    assert marked.near_duplicate == NearDuplicate(1.0, 0.9, None)


def test_a_picture_that_cannot_be_compared_does_not_pass_for_no_copy(tmp_path: Path) -> None:
    index = opened(written(tmp_path))
    broken = replace(index, descriptors=torch.full_like(index.descriptors, torch.nan))

    [marked] = broken.mark([Decoded(TRAINED[0])])

    assert (marked.picture, marked.error) == (None, NOT_COMPARED)


class _Means(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_an_index_carries_the_weights_of_its_descriptor(tmp_path: Path) -> None:
    weights = tmp_path / "sscd.torchscript.pt"
    torch.jit.trace(_Means(), torch.zeros(1, 3, 288, 288)).save(weights)  # type: ignore[no-untyped-call]
    descriptor = Sscd(weights)
    write_index(tmp_path / "index", descriptor, descriptor(TRAINED), NAMES, threshold=0.99)
    weights.unlink()

    [marked] = opened(tmp_path / "index", names=True).mark([Decoded(TRAINED[2])])

    assert marked.near_duplicate == NearDuplicate(1.0, 0.99, "folder/2.png")


def _nothing(folder: Path) -> None:
    (folder / "index.json").unlink()


def _cut(folder: Path) -> None:
    weights = folder / "descriptors.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _another(folder: Path) -> None:
    weights = folder / "descriptors.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "probe": tensors["descriptors"][:1].clone()}, weights)


def _unknown(folder: Path) -> None:
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(facts | {"descriptor": "DINO"}))


def _names(folder: Path) -> None:
    (folder / "names.json").write_text('["one"]')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_nothing, "index.json"),
        (_cut, "Safetensor"),
        (_another, "describes pictures now otherwise than in this index"),
        (_unknown, "the descriptor 'DINO', which is not known"),
        (_names, "has 1 names for 6 pictures"),
    ],
)
def test_what_is_no_index_is_refused_with_what_makes_one(
    tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    change(written(tmp_path))

    with pytest.raises(TrainingIndexError, match=words) as caught:
        opened(tmp_path, names=True)

    assert "VARIATIONS_TRAINING_INDEX" in caught.value.message
    assert "python -m app train index" in caught.value.message


def test_a_worker_without_the_index_it_was_told_of_is_never_ready_and_that_is_final(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    start = start_message(str(tiny_checkpoint))
    config = replace(start.config, training_index=str(tmp_path / "nowhere"))
    with worker_process() as worker:
        *_, failed = worker.started(replace(start, config=config))
    assert isinstance(failed, LoadFailed)
    assert failed.final
    assert "nowhere is no index of training pictures" in failed.message


def test_a_picture_of_one_colour_is_a_copy_of_nothing(tmp_path: Path) -> None:
    index = opened(written(tmp_path))

    [marked] = index.mark([Decoded(np.zeros((64, 64, 3), np.uint8))])

    assert marked == Decoded(marked.picture)
