"""What a request gets that asks for nothing, and which sizes and seeds it can ask for."""

import io

import pytest
from starlette.datastructures import UploadFile

from app.api.resolving import resolve
from app.api.schemas import VariationsForm
from app.errors import InvalidParameter
from app.parameters import MAX_SEED, Fit, Parameters, Scheduler
from tests.support.fakes import MODEL


def form(**fields: object) -> VariationsForm:
    return VariationsForm.model_validate({"image": UploadFile(io.BytesIO()), **fields})


def test_every_default_is_the_checkpoints() -> None:
    found = resolve(form(seed=1), MODEL)
    assert found == Parameters(1, 3.0, 4, Scheduler.DDIM, 1, 64, 64, Fit.SQUASH)


def test_zero_is_a_wish_and_no_absence() -> None:
    found = resolve(form(seed=0, guidance_scale=0), MODEL)
    assert (found.seed, found.guidance_scale) == (0, 0.0)


@pytest.mark.parametrize(
    ("fields", "size"),
    [({}, (64, 64)), ({"width": 96}, (96, 64)), ({"height": 64}, (64, 64))],
)
def test_one_side_alone_goes_with_the_default_of_the_other(
    fields: dict[str, int], size: tuple[int, int]
) -> None:
    found = resolve(form(**fields), MODEL)
    assert (found.width, found.height) == size


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"width": 96, "height": 96}, "width"),
        ({"width": 64, "height": 96}, "width"),
        ({"height": 96}, "height"),
    ],
)
def test_a_size_that_is_not_offered_is_refused_with_those_that_are(
    fields: dict[str, int], blamed: str
) -> None:
    with pytest.raises(InvalidParameter, match="can be 64x64, 96x64") as refusal:
        resolve(form(**fields), MODEL)
    assert refusal.value.field == blamed


def test_a_random_seed_leaves_room_for_the_last_variation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda bound: bound - 1)
    assert resolve(form(n=8), MODEL).seed == MAX_SEED - 7
