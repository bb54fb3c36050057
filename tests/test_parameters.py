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
    Mix,
    Parameters,
    Scheduler,
)
from app.wishes import Wishes
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


def by_call(condition: Condition, calls: int) -> list[list[ConditionRow]]:
    return [[row for row in condition.rows if call in row.calls] for call in range(calls)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_plain_condition_is_that_of_plain_parameters(guidance: float) -> None:
    picture = encoder_input()
    plain = Condition.guided(picture, guidance)
    parameters = MODEL.defaults(guidance_scale=guidance)
    calls = by_call(Condition.of(parameters, [picture]), parameters.calls)
    wanted = [(((picture, 1.0),), guidance), ((), 1.0 - guidance)][: parameters.rows]
    for rows in (*calls, *by_call(plain, parameters.calls)):
        assert [(row.pictures, row.weight) for row in rows] == wanted


@pytest.mark.parametrize("mix", Mix)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("part", [(0.0, 1.0), (0.0, 0.5), (0.3, 0.6), (0.5, 1.0)])
def test_a_condition_has_as_many_rows_as_its_parameters_say(
    mix: Mix, guidance: float, part: tuple[float, float]
) -> None:
    parameters = MODEL.defaults(
        num_inference_steps=10, guidance_scale=guidance, weight=(0.25, 0.75), mix=mix,
        guidance_start=part[0], guidance_end=part[1],
    )  # fmt: skip
    condition = Condition.of(parameters, [encoder_input(1), encoder_input(2)])
    calls = by_call(condition, parameters.calls)
    assert [len(rows) for rows in calls] == [
        rows for calls, rows in parameters.phases for _ in range(calls)
    ]
    assert parameters.row_steps == sum(map(len, calls))
    assert parameters.rows == max(map(len, calls))
    for rows in calls:
        assert sum(row.weight for row in rows) == pytest.approx(1.0)


def test_guidance_is_for_the_calls_between_its_ends() -> None:
    parameters = MODEL.defaults(
        num_inference_steps=10, guidance_start=0.2, guidance_end=0.5, weight=(0.5, 0.5)
    )
    assert parameters.phases == ((2, 1), (3, 2), (5, 1))
    assert replace(parameters, mix=Mix.ROWS).phases == ((2, 2), (3, 3), (5, 2))
    assert replace(parameters, guidance_scale=1.0).phases == ((10, 1),)


def test_from_a_picture_only_part_of_the_steps_is_taken() -> None:
    wanted = MODEL.defaults(num_inference_steps=10, strength=0.45)
    assert (wanted.begin, wanted.calls) == (6, 4)
    assert replace(wanted, scheduler=Scheduler.PNDM).calls == 5
    heun = replace(wanted, scheduler=Scheduler.HEUN)
    assert (heun.begin, heun.calls) == (12, 7)
    assert replace(heun, strength=1.0).begin == 0
    assert replace(heun, strength=None).begin is None
    assert replace(heun, guidance_end=0.5).phases == ((4, 2), (3, 1))


def test_a_strength_that_leaves_no_step_is_refused_with_one_that_does() -> None:
    with pytest.raises(InvalidParameter, match=r"at least 0\.334") as refusal:
        Wishes(num_inference_steps=3, strength=0.33).resolve(MODEL)
    assert refusal.value.field == "strength"
    assert Wishes(num_inference_steps=3, strength=0.334).resolve(MODEL).calls == 1


def test_a_negative_picture_stands_in_the_place_of_nothing() -> None:
    picture, negative = encoder_input(1), encoder_input(2)
    parameters = MODEL.defaults(negative_image=True)
    _, against = Condition.of(parameters, [picture], negative).rows
    assert (against.pictures, against.weight) == (((negative, 1.0),), -2.0)
    assert parameters.images == 2


@pytest.mark.parametrize(
    ("given", "shares"),
    [((1.0,), (1.0,)), ((1.0, 3.0), (0.25, 0.75)), ((1.7e308, 1.7e308), (0.5, 0.5))],
)
def test_weights_are_brought_to_a_sum_of_one(
    given: tuple[float, ...], shares: tuple[float, ...]
) -> None:
    assert Wishes(weight=given).resolve(MODEL).weight == shares


@pytest.mark.parametrize(
    ("fields", "wrong", "says"),
    [
        ({"guidance_start": 0.5, "guidance_end": 0.5}, "guidance_start", "less than guidance_end"),
        ({"guidance_end": 0.0}, "guidance_end", "less than guidance_end"),
        ({"guidance_start": 0.5, "guidance_end": 0.55}, "guidance_end", "No step lies between"),
        ({"guidance_scale": 1.0, "guidance_start": 0.5}, "guidance_start", "more than 1"),
        ({"guidance_scale": 0.0, "guidance_end": 0.5}, "guidance_end", "more than 1"),
        ({"guidance_scale": 1.0, "negative_image": True}, "negative_image", "more than 1"),
    ],
)
def test_guidance_that_leads_nowhere_is_refused(
    fields: dict[str, Any], wrong: str, says: str
) -> None:
    with pytest.raises(InvalidParameter, match=says) as refusal:
        Wishes(**fields).resolve(MODEL)
    assert refusal.value.field == wrong
