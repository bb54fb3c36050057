"""``POST /variations`` answered with files, over real HTTP."""

import base64
import io
import json
from zipfile import ZipFile

import httpx
import pytest
from PIL import Image

from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem


def post(client: httpx.Client, png: bytes, accept: str, **fields: object) -> httpx.Response:
    data = {name: str(value) for name, value in fields.items()}
    files = {"image": ("a.png", png)}
    return client.post("/variations", files=files, data=data, headers={"accept": accept})


@pytest.mark.parametrize(
    ("accept", "fields", "kind"),
    [
        ("image/png", {}, "png"),
        ("image/jpeg", {}, "jpeg"),
        ("image/webp", {"output_format": "webp"}, "webp"),
        ("image/*", {}, "png"),
        ("image/*", {"output_format": "jpeg"}, "jpeg"),
        ("image/webp,image/*,*/*;q=0.8", {}, "webp"),
    ],
)
def test_one_picture_is_the_answer_with_its_seed_and_timings_in_the_headers(
    client: httpx.Client, engine: FakeEngine, png: bytes, accept: str, fields: dict[str, str],
    kind: str,
) -> None:  # fmt: skip
    response = post(client, png, accept, seed=9, **fields)
    assert response.status_code == 200
    assert response.headers["content-type"] == f"image/{kind}"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.get_format_mimetype() == f"image/{kind}"
    assert response.headers["x-seed"] == "9"
    assert response.headers["vary"] == "accept"
    timings = dict(one.split(";dur=") for one in response.headers["server-timing"].split(", "))
    assert list(timings) == [
        "upload", "read", "queue", "encode", "denoise", "decode", "safety", "write", "total",
    ]  # fmt: skip
    assert float(timings["denoise"]) == pytest.approx(300, abs=0.1)


def test_it_is_the_picture_of_the_json_answer(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    [one] = post(client, png, "*/*", seed=9).json()["variations"]
    assert post(client, png, "image/png", seed=9).content == base64.b64decode(one["b64_json"])


def test_a_flagged_picture_by_itself_is_a_problem(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({0})
    problem = assert_problem(post(client, png, "image/png"), 422)
    assert problem["type"] == "urn:variations:all-flagged"


def test_an_archive_holds_the_pictures_and_what_made_them(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({1})
    wish = {"n": 3, "seed": 5, "output_format": "webp"}
    response = post(client, png, "application/zip", **wish)
    assert response.headers["content-type"] == "application/zip"
    with ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        names = ["variation-5.webp", "variation-7.webp"]
        assert archive.namelist() == [*names, "parameters.json"]
        described = json.loads(archive.read("parameters.json"))
        answer = post(client, png, "application/json", **wish).json()
        for name, one in zip(names, answer["variations"][::2], strict=True):
            assert archive.read(name) == base64.b64decode(one["b64_json"])
    assert described["parameters"] == answer["parameters"]
    assert [one["file"] for one in described["variations"]] == [names[0], None, names[1]]
    assert [one["flagged"] for one in described["variations"]] == [False, True, False]
    assert set(described) == set(answer)


@pytest.mark.parametrize(
    ("accept", "fields"),
    [("image/png", {"n": 2}), ("image/png", {"output_format": "webp"}), ("image/*", {"n": 8})],
)
def test_several_pictures_or_another_format_are_no_picture_by_itself(
    client: httpx.Client, engine: FakeEngine, png: bytes, accept: str, fields: dict[str, object]
) -> None:
    problem = assert_problem(post(client, png, accept, **fields), 406)
    assert "application/json, text/event-stream, application/zip" in problem["detail"]
    assert not engine.parameters


def test_where_a_picture_does_not_do_the_next_best_answer_does(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    answers = [post(client, png, "image/png, application/zip;q=0.5", n=n) for n in (1, 2)]
    types = [answer.headers["content-type"] for answer in answers]
    assert types == ["image/png", "application/zip"]
