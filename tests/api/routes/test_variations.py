"""``POST /variations`` over real HTTP, above an engine without a model."""

import base64
import io

import httpx
import pytest
from PIL import Image

from app.parameters import MAX_SEED, Fit, Parameters, Scheduler
from app.pictures.decode import FORMATS_IN_WORDS
from app.scheduling.forecast import Span
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.pictures import picture_file, quarters
from tests.support.requests import PREPROCESSING


def test_an_answer_holds_the_pictures_and_all_that_made_them(post: Post) -> None:
    response = post(
        n=2,
        guidance_scale=5,
        num_inference_steps=7,
        scheduler="lms",
        seed=11,
        width=96,
        height=64,
        fit="crop",
        output_format="webp",
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["model"] == {"id": "fake", "revision": "v1"}
    assert answer["parameters"] == {
        "n": 2,
        "guidance_scale": 5.0,
        "num_inference_steps": 7,
        "scheduler": "lms",
        "seed": 11,
        "width": 96,
        "height": 64,
        "fit": "crop",
        "weight": [1.0],
        "mix": "embedding",
        "negative_image": False,
        "guidance_start": 0.0,
        "guidance_end": 1.0,
        "strength": None,
        "output_format": "webp",
    }
    assert isinstance(answer["created"], int)
    assert set(answer["timings"]) == {
        "upload", "read", "queue", "encode", "denoise", "decode", "safety", "write",
        "total", "predicted", "steps",
    }  # fmt: skip
    assert [one["seed"] for one in answer["variations"]] == [11, 12]
    for index, one in enumerate(answer["variations"]):
        with Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))) as image:
            assert image.format == "WEBP"
            assert image.size == (one["width"], one["height"]) == (96, 64)
        assert (one["index"], one["media_type"], one["flagged"]) == (index, "image/webp", False)


def test_what_is_left_out_is_the_checkpoints(post: Post, engine: FakeEngine) -> None:
    answer = post().json()
    seed = answer["parameters"]["seed"]
    expected = Parameters(1, 3.0, 4, Scheduler.DDIM, seed, 64, 64, Fit.SQUASH)
    assert engine.parameters == [expected]
    assert answer["variations"][0]["seed"] == seed


def test_a_field_left_empty_is_left_out(post: Post, engine: FakeEngine) -> None:
    assert post(n="", seed="", scheduler="", width="").status_code == 200
    assert engine.parameters[0].n == 1


def test_a_random_seed_differs_and_makes_the_same_pictures_again(post: Post) -> None:
    first, second = post(n=8).json(), post(n=8).json()
    assert first["parameters"]["seed"] != second["parameters"]["seed"]
    again = post(n=8, seed=first["parameters"]["seed"]).json()
    assert again["variations"] == first["variations"]


@pytest.mark.parametrize(("scale", "weights"), [(1, [1.0]), (3, [3.0, -2.0])])
def test_the_engine_gets_the_fitted_picture_and_the_weights_of_its_rows(
    post: Post, engine: FakeEngine, scale: float, weights: list[float]
) -> None:
    post(picture_file("PNG"), fit="crop", guidance_scale=scale)
    rows = engine.conditions[0].rows
    [(picture, _)] = rows[0].pictures
    assert (picture == PREPROCESSING(quarters(), Fit.CROP)).all()
    assert [row.weight for row in rows] == weights
    assert [len(row.pictures) for row in rows] == [1, 0][: len(rows)]


def test_the_prediction_counts_from_the_arrival_of_the_upload(
    post: Post, engine: FakeEngine
) -> None:
    engine.predicted = Span(1.0, 2.0)
    timings = post().json()["timings"]
    assert timings["predicted"] == pytest.approx(2.0 + timings["read"])


def test_a_flagged_picture_is_null_and_its_neighbours_are_not(
    post: Post, engine: FakeEngine
) -> None:
    engine.flagged = frozenset({1})
    variations = post(n=3, seed=5).json()["variations"]
    assert [one["flagged"] for one in variations] == [False, True, False]
    assert [one["b64_json"] is None for one in variations] == [False, True, False]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("n", 0, "greater than or equal to 1, not '0'"),
        ("n", 9, "less than or equal to 8, not '9'"),
        ("n", "two", "valid integer"),
        ("n", 1.5, "valid integer"),
        ("guidance_scale", -1, "greater than or equal to 0"),
        ("guidance_scale", 25.1, "less than or equal to 25"),
        ("guidance_scale", "nan", "less than or equal to 25"),
        ("guidance_scale", "inf", "less than or equal to 25"),
        ("num_inference_steps", 0, "greater than or equal to 1"),
        ("num_inference_steps", 101, "less than or equal to 100"),
        ("scheduler", "euler_a", "'pndm', 'ddim', 'euler'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", MAX_SEED + 1, "less than or equal to 4294967295"),
        ("width", 65, "width x height can be 64x64, 96x64"),
        ("height", 96, "width x height can be 64x64, 96x64"),
        ("fit", "stretch", "'squash', 'crop' or 'pad'"),
        ("output_format", "gif", "'png', 'jpeg' or 'webp'"),
        ("num_inference_step", 5, "did you mean num_inference_steps?"),
        ("zzz", 5, "there are image, weight, mix"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(
    post: Post, engine: FakeEngine, field: str, value: object, says: str
) -> None:
    response = post(**{field: value})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]
    assert not engine.parameters


def test_every_wrong_field_is_named_at_once(post: Post) -> None:
    problem = post(n=99, seed="x", colour="red").json()
    assert [error["field"] for error in problem["errors"]] == ["n", "seed", "colour"]


def test_a_seed_whose_last_variation_could_not_be_asked_for_is_refused(post: Post) -> None:
    assert post(n=1, seed=MAX_SEED).status_code == 200
    problem = post(n=3, seed=MAX_SEED).json()
    assert problem["errors"][0]["field"] == "seed"
    assert f"at most {MAX_SEED - 2}" in problem["detail"]


def test_a_field_given_twice_is_refused(client: httpx.Client, png: bytes) -> None:
    twice = client.post("/variations", files={"image": ("a", png)}, data={"n": ["1", "2"]})
    pictures = [("negative_image", ("a", png)), ("negative_image", ("b", png))]
    two = client.post("/variations", files=[("image", ("a", png)), *pictures])
    assert (twice.status_code, two.status_code) == (422, 422)
    assert twice.json()["errors"] == [{"field": "n", "message": "n was given more than once"}]
    assert two.json()["errors"][0]["field"] == "negative_image"


def test_a_missing_picture_is_asked_for(client: httpx.Client, png: bytes) -> None:
    response = client.post("/variations", files={"picture": ("a.png", png)})
    assert response.status_code == 422
    messages = {error["field"]: error["message"] for error in response.json()["errors"]}
    assert "-F image=@photo.jpg" in messages["image"]
    assert "no such field" in messages["picture"]


def test_a_picture_sent_as_text_is_asked_for_as_a_file(client: httpx.Client) -> None:
    response = client.post("/variations", files={"image": (None, "photo.jpg")})
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {
            "field": "image",
            "message": "Needed here: The picture to make variations of, as a file: "
            f"{FORMATS_IN_WORDS}. With curl: -F image=@photo.jpg. Up to 4, the field repeated, are "
            "mixed",
        }
    ]


# Starlette leaves the file of a part that never ends to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_form_that_breaks_off_is_a_problem_not_a_crash(client: httpx.Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    for body in (b"", b"no boundary at all", head, head + b"123"):
        response = client.post(
            "/variations",
            content=body,
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert response.status_code in (400, 422), body
        assert response.headers["content-type"] == "application/problem+json"
