"""Several pictures in one form, one to lead away from, and guidance on part of the steps."""

from collections.abc import Callable

import httpx
import numpy as np
import pytest

from app.parameters import Fit, Mix
from app.pictures.fit import at_size
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.pictures import picture_file, quarters
from tests.support.requests import PREPROCESSING

SIZES = [(40, 30), (30, 40), (20, 20), (64, 32)]

PostAll = Callable[..., httpx.Response]


@pytest.fixture
def post_all(client: httpx.Client) -> PostAll:
    """Post so many pictures, each another, with these form fields."""

    def _post(number: int, negative: bytes | None = None, **fields: object) -> httpx.Response:
        pictures = [("image", ("a.png", picture_file("PNG", size))) for size in SIZES]
        files = (pictures * 2)[:number]
        if negative:
            files.append(("negative_image", ("b.png", negative)))
        return client.post("/variations", files=files, data=fields)

    return _post


def fitted(number: int) -> np.ndarray:
    return PREPROCESSING(quarters(SIZES[number]), Fit.SQUASH)


def test_pictures_are_looked_at_by_their_weights_in_their_order(
    post_all: PostAll, engine: FakeEngine
) -> None:
    answer = post_all(3, weight=["1", "2.5", "1.5"]).json()
    assert answer["parameters"]["weight"] == [0.2, 0.5, 0.3]
    assert answer["parameters"]["mix"] == "embedding"
    mixture, nothing = (row.pictures for row in engine.conditions[0].rows)
    assert [weight for _, weight in mixture] == [0.2, 0.5, 0.3]
    assert all(np.array_equal(each, fitted(i)) for i, (each, _) in enumerate(mixture))
    assert nothing == ()


def test_without_weights_all_pictures_count_alike(post_all: PostAll, engine: FakeEngine) -> None:
    for fields in ({}, {"weight": ""}):
        assert post_all(4, **fields).json()["parameters"]["weight"] == [0.25] * 4


def test_as_rows_each_picture_is_looked_at_by_itself(post_all: PostAll, engine: FakeEngine) -> None:
    answer = post_all(2, weight=["1", "3"], mix="ROWS", guidance_scale="2").json()
    assert answer["parameters"]["mix"] == Mix.ROWS
    rows = engine.conditions[0].rows
    assert [(len(row.pictures), row.weight) for row in rows] == [(1, 0.5), (1, 1.5), (0, -1.0)]


def test_a_negative_picture_takes_the_place_of_nothing(
    post_all: PostAll, engine: FakeEngine
) -> None:
    answer = post_all(1, negative=picture_file("PNG", SIZES[2])).json()
    assert answer["parameters"]["negative_image"] is True
    _, against = engine.conditions[0].rows
    [(picture, weight)] = against.pictures
    assert np.array_equal(picture, fitted(2))
    assert (weight, against.weight) == (1.0, -2.0)


def test_guidance_may_be_for_part_of_the_steps(post_all: PostAll, engine: FakeEngine) -> None:
    answer = post_all(1, guidance_end="0.5").json()
    assert answer["parameters"]["guidance_start"] == 0.0
    assert answer["parameters"]["guidance_end"] == 0.5
    assert engine.parameters[0].phases == ((2, 2), (2, 1))


def test_the_first_picture_is_started_from_at_the_outputs_size(
    post_all: PostAll, engine: FakeEngine
) -> None:
    answer = post_all(2, strength="0.5", fit="crop", width="96").json()
    assert answer["parameters"]["strength"] == 0.5
    assert engine.parameters[0].calls == 2
    started = engine.conditions[0].start
    assert started is not None
    assert np.array_equal(started, at_size(quarters(SIZES[0]), (96, 64), Fit.CROP))
    post_all(2)
    assert engine.conditions[1].start is None


@pytest.mark.parametrize(
    ("number", "fields", "field", "says"),
    [
        (5, {}, "image", "at most 4 items"),
        (2, {"weight": ["1"]}, "weight", "weight was given 1 times, and image 2 times"),
        (1, {"weight": ["1", "2"]}, "weight", "one weight for each image, or none"),
        (2, {"weight": ["1", "0"]}, "weight", "greater than 0, not '0'"),
        (2, {"weight": ["1", "-3"]}, "weight", "greater than 0"),
        (2, {"weight": ["1", "inf"]}, "weight", "finite number"),
        (2, {"weight": ["nan", "1"]}, "weight", "not 'nan'"),
        (2, {"weight": ["1", "much"]}, "weight", "valid number"),
        (2, {"mix": "sum"}, "mix", "'embedding' or 'rows'"),
        (1, {"strength": "0"}, "strength", "greater than or equal to 0.01"),
        (1, {"strength": "1.1"}, "strength", "less than or equal to 1"),
        (1, {"strength": "0.2"}, "strength", "at least 0.25"),
        (1, {"guidance_start": "1.5"}, "guidance_start", "less than or equal to 1"),
        (1, {"guidance_start": "0.9", "guidance_end": "0.1"}, "guidance_start", "less than"),
        (1, {"guidance_scale": "1", "guidance_end": "0.5"}, "guidance_end", "more than 1"),
    ],
)
def test_a_wrong_field_is_named(
    post_all: PostAll,
    engine: FakeEngine,
    number: int,
    fields: dict[str, object],
    field: str,
    says: str,
) -> None:
    response = post_all(number, **fields)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]
    assert not engine.parameters


def test_a_negative_picture_without_guidance_is_refused(post_all: PostAll) -> None:
    problem = post_all(1, negative=picture_file("PNG"), guidance_scale="1").json()
    assert problem["errors"][0]["field"] == "negative_image"


def test_a_picture_that_cannot_be_read_is_named(client: httpx.Client, png: bytes) -> None:
    good, bad = ("a.png", png), ("b.png", b"no picture")
    second = client.post("/variations", files=[("image", good), ("image", bad)])
    assert second.json()["errors"][0]["field"] == "image"
    assert second.json()["detail"].startswith("Picture 2 of 2: ")
    negative = client.post("/variations", files={"image": good, "negative_image": bad})
    assert negative.json()["errors"][0]["field"] == "negative_image"
    assert (second.status_code, negative.status_code) == (400, 400)


def test_the_wait_for_decoders_is_that_of_all_pictures(
    post_all: PostAll, decoders: FakeDecoders
) -> None:
    assert post_all(3, negative=picture_file("PNG")).status_code == 200
    assert decoders.asked_for == 4
