"""Data sets as files, and which of their pictures are trained on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.training.errors import CannotStart
from app.training.sieve import UNREADABLE, Sieve, scores
from app.training.sources import Raw, open_source
from app.training.world import Picture
from tests.support.shards import jpeg, write_shards


@pytest.fixture
def shards(tmp_path: Path, drawings: list[Picture]) -> Path:
    files = [jpeg(drawing) for drawing in drawings]
    facts = [{"AESTHETIC_SCORE": 4 + i / 4, "punsafe": i / 20} for i in range(len(files))]
    return write_shards(tmp_path / "shards", files, facts)


def test_shards_hold_pictures_with_their_metadata(shards: Path) -> None:
    raws = list(open_source(str(shards)).ordered())

    assert [raw.key for raw in raws][:6] == [f"0000{n // 5}{n % 5:04}" for n in range(6)]
    assert raws[3].facts["AESTHETIC_SCORE"] == 4.75


def test_shards_are_named_by_braces_too(shards: Path) -> None:
    raws = list(open_source(f"{shards}/{{00000..00001}}.tar").ordered())

    assert len(raws) == 10


def test_a_folder_may_have_metadata_beside_its_pictures(
    tmp_path: Path, drawings: list[Picture]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg(drawings[0]))
    (tmp_path / "in" / "a.json").write_text(json.dumps({"pwatermark": 0.9}))

    [raw] = open_source(str(tmp_path)).ordered()

    assert raw.key == "in/a.jpg"
    assert Sieve(max_watermark=0.8).reason(raw) == "watermark score above 0.8"


@pytest.mark.parametrize("kind", ["shards", "pictures"])
def test_an_epoch_has_every_picture_once_in_an_order_of_its_own(
    request: pytest.FixtureRequest, kind: str
) -> None:
    source = open_source(str(request.getfixturevalue(kind)))

    first, again, later = ([raw.key for raw in source.shuffled(1, epoch)] for epoch in (0, 0, 1))

    assert first == again
    assert sorted(first) == sorted(later) == sorted(raw.key for raw in source.ordered())
    assert first != later


def test_a_shard_cut_short_ends_early_and_the_next_is_read(shards: Path) -> None:
    cut = shards / "00000.tar"
    cut.write_bytes(cut.read_bytes()[:12_000])

    raws = list(open_source(str(shards)).ordered())

    assert 7 <= len(raws) < 12
    assert raws[-1].key == "000020001"


@pytest.mark.parametrize(
    ("sieve", "left"),
    [
        (Sieve(), 12),
        (Sieve(min_size=96), 12),
        (Sieve(min_size=97), 0),
        (Sieve(min_aesthetic=6), 4),
        (Sieve(max_unsafe=0.1), 3),
        (Sieve(max_watermark=0.5), 0),
    ],
)
def test_sizes_and_scores_leave_pictures_out(shards: Path, sieve: Sieve, left: int) -> None:
    raws = open_source(str(shards)).ordered()

    assert sum(sieve.reason(raw) is None for raw in raws) == left


def test_what_is_no_picture_is_unreadable() -> None:
    assert Sieve().reason(Raw("a", b"no picture", {})) == UNREADABLE


def test_scores_are_found_under_the_names_that_laion_gave_them() -> None:
    facts = {"aesthetic": 5, "pwatermark": "0.5", "NSFW": "UNLIKELY", "punsafe": None, "url": "x"}

    assert scores(facts) == {
        "aesthetic": 5.0,
        "watermark": 0.5,
        "unsafe": 0.0,
    }


@pytest.mark.parametrize("data", ["", "nowhere", "nowhere/{0..2}.tar"])
def test_a_place_without_data_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="--data"):
        open_source(str(tmp_path / data))


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['webdataset'] = None; from app.__main__ import app; "
        "app(['train', 'check-data', '--data', '.'])"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 2
    assert "webdataset is not installed: training needs the extra `train`" in run.stderr
