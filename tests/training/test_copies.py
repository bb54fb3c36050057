"""Near-copies: planted ones are found, others are not called so, and data sets lose them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from typer.testing import CliRunner

from app.cli import app
from app.pipeline.descriptors import Outline
from app.training.copies import Index, open_descriptor
from app.training.errors import CannotStart
from app.training.sources import open_source
from app.training.world import Picture, draw, sample_held_out, training_scenes
from tests.support.shards import jpeg, write_shards


def _recompressed(picture: Picture) -> Picture:
    return np.asarray(Image.open(io.BytesIO(jpeg(picture, quality=30))))


def _smaller(picture: Picture) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((60, 60), Image.Resampling.BICUBIC))


def _lighter(picture: Picture) -> Picture:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(picture)).enhance(1.15))


def _paler(picture: Picture) -> Picture:
    return np.asarray(ImageEnhance.Color(Image.fromarray(picture)).enhance(0.6))


def _cropped(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[3:-3, 3:-3])


_ALTERATIONS = (_recompressed, _smaller, _lighter, _paler, _cropped)


def test_planted_copies_are_found_with_few_false_alarms() -> None:
    rng = np.random.default_rng(3)
    scenes = training_scenes(rng)
    trained = [draw(next(scenes), rng) for _ in range(600)]
    planted = [_ALTERATIONS[i % 5](picture) for i, picture in enumerate(trained)]
    others = [draw(scene, rng) for scene in sample_held_out(150, rng)]
    descriptor = Outline()
    index = Index(descriptor(trained))

    (found, rows), (alarms, _) = (
        index.nearest(descriptor(planted)),
        index.nearest(descriptor(others)),
    )

    for least in (descriptor.alike, descriptor.copy):
        right = (found[:, 0] >= least) & (rows[:, 0] == np.arange(600))
        assert right.mean() >= 0.95
        assert (alarms[:, 0] >= least).mean() <= 0.02


@pytest.fixture
def shards(tmp_path: Path, drawings: list[Picture]) -> Path:
    """Twelve drawings, altered copies of the first three, and two files that are no pictures."""
    copies = [alter(drawings[i]) for i, alter in enumerate(_ALTERATIONS[:3])]
    whole = [jpeg(picture) for picture in (*drawings, *copies)]
    files = [*whole, whole[0][:2000], b"no picture"]
    return write_shards(tmp_path / "shards", files, [{"punsafe": 0.5}] * len(files))


def _run(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_check_data_tells_what_is_in_a_data_set(shards: Path) -> None:
    found = _run("check-data", "--data", shards, "--min-size", 70)

    assert found["pictures"] == 17
    assert found["unreadable"] == 2
    assert found["left_out"] == {"unreadable": 1, "shorter side below 70": 1}
    assert found["near_copies"] == {"descriptor": "outline (ours)", "from_0.75": 3, "from_0.9": 3}
    assert found["scores"]["unsafe"]["pictures"] == 17  # type: ignore[index]


def test_deduplication_keeps_the_first_of_each_and_names_the_rest(
    shards: Path, tmp_path: Path, drawings: list[Picture]
) -> None:
    out = tmp_path / "out"

    found = _run("deduplicate", "--data", shards, "--out", out)

    assert (found["kept"], found["near_copies"], found["unreadable"]) == (12, 3, 2)
    kept = [raw.facts["original_key"] for raw in open_source(str(out)).ordered()]
    named = json.loads((out / "duplicates.json").read_text())
    assert [duplicate["kept"] for duplicate in named] == kept[:3]
    assert kept == [raw.key for raw in open_source(str(shards)).ordered()][:12]
    assert (
        CliRunner()
        .invoke(app, ["train", "deduplicate", "--data", str(shards), "--out", str(out)])
        .exit_code
        == 2
    )


def test_memorisation_is_measured_over_a_checkpoint(
    shards: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    worst = tmp_path / "worst.png"

    found = _run(
        "memorisation", "--model", tiny_checkpoint, "--data", shards, "-n", 2, "--worst", worst
    )

    assert (found["inputs"], found["training_pictures"]) == (2, 15)
    assert found["variations"]["copy"] == 0  # type: ignore[index]
    with Image.open(worst) as sheet:
        assert sheet.width > 3 * 256


class _Means(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_torchscript_descriptor_is_used_with_its_own_thresholds(
    tmp_path: Path, drawings: list[Picture]
) -> None:
    path = tmp_path / "sscd.torchscript.pt"
    torch.jit.trace(_Means(), torch.zeros(1, 3, 288, 288)).save(path)  # type: ignore[no-untyped-call]

    descriptor = open_descriptor(str(path))

    assert (descriptor.alike, descriptor.copy) == (0.5, 0.75)
    assert descriptor(drawings[:3]).shape == (3, 192)
    assert np.linalg.norm(descriptor(drawings[:3]), axis=1) == pytest.approx(1)


@pytest.mark.parametrize("content", [None, b"text"])
def test_what_is_no_descriptor_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file.pt"
    if content:
        path.write_bytes(content)

    with pytest.raises(CannotStart, match="--descriptor"):
        open_descriptor(str(path))
