from pathlib import Path

import numpy as np
import pytest

from app.training.dataset import draw_pairs
from app.training.world import (
    ALL_KINDS,
    KINDS,
    SIZE,
    Scene,
    draw,
    draw_field,
    held_out_scenes,
    sample_held_out,
    training_scenes,
)


def _rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_same_seed_draws_the_same_picture() -> None:
    scene = Scene(kind=3, hue=1, background=6, count=2, texture=1)

    first, again, other = draw(scene, _rng()), draw(scene, _rng()), draw(scene, _rng(6))

    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", range(len(ALL_KINDS)), ids=ALL_KINDS)
@pytest.mark.parametrize("count", [0, 3])
def test_things_stand_out_from_the_background(kind: int, count: int) -> None:
    shown = draw(Scene(kind, hue=0, background=5, count=count, texture=2), _rng())

    red = (shown[..., 0] > 200) & (shown[..., 1] < 60) & (shown[..., 2] < 60)

    assert 0.02 < red.mean() < 0.6


def test_training_never_draws_a_held_out_scene() -> None:
    scenes = training_scenes(_rng())

    drawn = {next(scenes) for _ in range(5000)}

    assert drawn.isdisjoint(held_out_scenes())
    assert {scene.kind for scene in drawn} == set(range(len(ALL_KINDS)))


def test_held_out_samples_are_different_scenes_with_or_without_the_blocked_kind() -> None:
    allowed = sample_held_out(200, _rng())
    blocked = sample_held_out(50, _rng(), blocked=True)

    assert len(set(allowed)) == 200
    assert {*allowed, *blocked} <= held_out_scenes()
    assert all(scene.kind < len(KINDS) for scene in allowed)
    assert all(scene.kind == len(KINDS) for scene in blocked)


def test_the_two_crops_of_a_field_share_their_colours_but_not_their_pixels() -> None:
    first, second = draw_field(_rng())

    assert not np.array_equal(first, second)
    assert np.abs(first.mean((0, 1)) - second.mean((0, 1))).max() < 80


def test_pairs_depend_on_the_seed_alone_and_are_drawn_once(tmp_path: Path) -> None:
    told: list[int] = []

    first = draw_pairs(tmp_path / "first", 30, 1, told.append)
    again = draw_pairs(tmp_path / "again", 30, 1, told.append)
    draw_pairs(tmp_path / "first", 30, 1, told.append)

    assert told == [30, 30]
    assert first.pictures.shape == (30, 2, SIZE, SIZE, 3)
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.labels, again.labels)
