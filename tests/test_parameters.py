"""Parameters, the conditions they make, and wishes resolved into them."""

from dataclasses import replace
from typing import Any

import pytest

from app.errors import InvalidParameter
from app.parameters import (
    MAX_SEED,
    Condition,
    ConditionRow,
    Fit,
    Parameters,
    Scheduler,
    Wishes,
)
from tests.support.requests import MODEL, encoder_input


def test_every_default_is_the_checkpoints() -> None:
    found = Wishes(seed=1).resolve(MODEL)
    assert found == Parameters(1, 3.0, 4, Scheduler.DDIM, 1, 64, 64, Fit.SQUASH)


def test_zero_is_a_wish_and_no_absence() -> None:
    found = Wishes(seed=0, guidance_scale=0).resolve(MODEL)
    assert (found.seed, found.guidance_scale) == (0, 0.0)


@pytest.mark.parametrize(
    ("fields", "size"),
    [({}, (64, 64)), ({"width": 96}, (96, 64)), ({"height": 64}, (64, 64))],
)
def test_one_side_alone_goes_with_the_default_of_the_other(
    fields: dict[str, Any], size: tuple[int, int]
) -> None:
    found = Wishes(**fields).resolve(MODEL)
    assert (found.width, found.height) == size


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"width": 96, "height": 96}, "width"),
        ({"width": 64, "height": 96}, "width"),
        ({"height": 96}, "height"),
    ],
)
def test_a_size_that_is_not_offered_is_refused_with_those_that_are(
    fields: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InvalidParameter, match="can be 64x64, 96x64") as refusal:
        Wishes(**fields).resolve(MODEL)
    assert refusal.value.field == wrong


def test_a_solver_that_is_not_offered_is_refused_with_those_that_are() -> None:
    model = replace(MODEL, schedulers=(Scheduler.DDIM, Scheduler.LMS))
    assert Wishes(scheduler=Scheduler.LMS).resolve(model).scheduler == Scheduler.LMS
    with pytest.raises(
        InvalidParameter, match=r"pndm is not offered .* can be ddim, lms"
    ) as refusal:
        Wishes(scheduler=Scheduler.PNDM).resolve(model)
    assert refusal.value.field == "scheduler"


def test_a_random_seed_leaves_room_for_the_last_variation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    assert Wishes(n=8).resolve(MODEL).seed == MAX_SEED - 7


def test_variation_i_has_the_seed_after_those_before_it() -> None:
    parameters = MODEL.defaults(seed=7, n=3)
    assert [parameters.seed_of(index) for index in range(3)] == [7, 8, 9]


def test_the_defaults_are_the_checkpoints_but_for_the_changes() -> None:
    parameters = MODEL.defaults(n=2, scheduler=Scheduler.PNDM)
    assert (parameters.n, parameters.scheduler, parameters.size) == (2, Scheduler.PNDM, (64, 64))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_condition_has_as_many_rows_as_its_parameters_say(guidance: float) -> None:
    picture = encoder_input()
    rows = Condition.guided(picture, guidance).rows
    assert len(rows) == MODEL.defaults(guidance_scale=guidance).rows
    assert sum(row.weight for row in rows) == pytest.approx(1.0)
    assert rows[0] == ConditionRow(picture, guidance)
