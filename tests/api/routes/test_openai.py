"""OpenAI's images API as the real ``openai`` package speaks it, over an engine without a model."""

import base64
import io
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai import DefaultAsyncHttpx2Client, DefaultHttpx2Client
from PIL import Image

from app.api.application import create_app
from app.engine.lifecycle import WorkerState
from app.errors import AttemptsExhausted
from app.parameters import Scheduler
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.requests import MODEL
from tests.support.scrape import eventually
from tests.support.sdk import SDKS, Sdk
from tests.support.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

KEY = "a-key-of-enough-letters"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(previews="on", max_queue=1)


@pytest.fixture(params=SDKS)
def make(request: pytest.FixtureRequest) -> Callable[..., Sdk]:
    return SDKS[request.param]


@pytest.fixture
def sdk(make: Callable[..., Sdk], url: str) -> Sdk:
    return make(url)


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def error_of(call: Callable[[], object], kind: type[openai.APIStatusError], status: int) -> Any:
    """The error that the SDK raises; its body has the four keys."""
    with pytest.raises(kind) as raised:
        call()
    assert raised.value.status_code == status
    assert raised.value.request_id
    assert isinstance(raised.value.body, dict)
    assert set(raised.value.body) == {"message", "type", "param", "code"}
    return raised.value


def test_variations_come_as_addresses_that_anybody_can_open(sdk: Sdk, png: bytes) -> None:
    answer = sdk.variation(png, n=2, extra_body={"output_format": "webp"})
    assert answer.data
    assert [one.b64_json for one in answer.data] == [None, None]
    for one in answer.data:
        assert one.url
        found = httpx.get(one.url)
        assert found.headers["content-type"] == "image/webp"
        assert found.headers["cache-control"].startswith("private, max-age=35")
        with opened(found.content) as image:
            assert image.size == (64, 64)
    assert len({one.url for one in answer.data}) == 2


def test_our_own_parameters_go_as_extra_body_and_come_back(
    sdk: Sdk, engine: FakeEngine, png: bytes
) -> None:
    ours = {
        "guidance_scale": 5,
        "num_inference_steps": 7,
        "scheduler": "lms",
        "seed": 11,
        "fit": "crop",
    }
    answer = sdk.variation(png, n=2, response_format="b64_json", user="someone", extra_body=ours)
    [asked] = engine.parameters
    assert (asked.guidance_scale, asked.num_inference_steps, asked.seed) == (5.0, 7, 11)
    assert (asked.scheduler, asked.fit) == (Scheduler.LMS, "crop")
    assert answer.data
    assert answer.model_extra
    assert ours.items() <= answer.model_extra["parameters"].items()
    assert answer.model_extra["model"] == {"id": "fake", "revision": "v1"}
    assert answer.output_format == "png"
    assert abs(answer.created - time.time()) < 600
    for index, one in enumerate(answer.data):
        assert one.model_extra == {"index": index, "seed": 11 + index}
        assert one.url is None
        with opened(base64.b64decode(one.b64_json or "")) as image:
            assert image.format == "PNG"


def test_several_pictures_are_a_list_and_so_are_their_weights(
    sdk: Sdk, engine: FakeEngine, png: bytes
) -> None:
    ours = {"weight": [1, 3], "mix": "rows", "guidance_end": 0.5}
    answer = sdk.variation([png, png], extra_body=ours)
    [asked] = engine.parameters
    assert (asked.weight, asked.mix, asked.phases) == ((0.25, 0.75), "rows", ((2, 3), (2, 2)))
    assert answer.model_extra
    assert answer.model_extra["parameters"]["weight"] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("size", "made"),
    [
        ("1024x1024", "64x64"),
        ("256x256", "64x64"),
        ("1536x1024", "96x64"),
        ("auto", "64x64"),
        (None, "64x64"),
    ],
)
def test_the_nearest_size_is_made_and_said(sdk: Sdk, png: bytes, size: Any, made: str) -> None:
    answer = sdk.variation(png, size=size, response_format="b64_json")
    assert answer.size == made
    assert answer.data
    with opened(base64.b64decode(answer.data[0].b64_json or "")) as image:
        assert f"{image.width}x{image.height}" == made


def test_ten_pictures_are_as_many_as_openai_makes(sdk: Sdk, png: bytes) -> None:
    assert len(sdk.variation(png, n=10).data or ()) == 10
    error = error_of(lambda: sdk.variation(png, n=11), openai.BadRequestError, 400)
    assert (error.param, error.code) == ("n", "invalid_parameter")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": "file"}, "response_format", "'url' or 'b64_json'"),
        ({"size": "big"}, "size", "pattern"),
        ({"size": "0x64"}, "size", "pattern"),
        ({"extra_body": {"seeed": 1}}, "seeed", "did you mean seed?"),
        ({"extra_body": {"scheduler": "best"}}, "scheduler", "'pndm'"),
        ({"extra_body": {"partial_images": 2}}, "partial_images", "stream=true"),
        ({"extra_body": {"stream": True}, "response_format": "url"}, "response_format", "b64_json"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    sdk: Sdk, engine: FakeEngine, png: bytes, fields: dict[str, Any], param: str, says: str
) -> None:
    error = error_of(lambda: sdk.variation(png, **fields), openai.BadRequestError, 400)
    assert (error.param, error.type) == (param, "invalid_request_error")
    assert says in error.message
    assert not engine.parameters


def test_what_is_no_picture_is_a_bad_request(sdk: Sdk) -> None:
    error = error_of(lambda: sdk.variation(b"nothing"), openai.BadRequestError, 400)
    assert (error.param, error.code) == ("image", "not_a_picture")


def test_another_model_is_not_found(sdk: Sdk, png: bytes) -> None:
    assert sdk.variation(png, model="fake").data
    error = error_of(lambda: sdk.variation(png, model="dall-e-2"), openai.NotFoundError, 404)
    assert (error.param, error.code) == ("model", "model_not_found")
    assert "model can be fake" in error.message


def test_models_are_listed_and_found(sdk: Sdk, engine: FakeEngine) -> None:
    engine.model = replace(MODEL, id="someone/a-model")
    [model] = sdk.models()
    assert (model.id, model.object) == ("someone/a-model", "model")
    assert sdk.model("someone/a-model") == model
    error = error_of(lambda: sdk.model("gpt-4"), openai.NotFoundError, 404)
    assert error.code == "model_not_found"


def test_a_flagged_picture_is_left_out_with_a_note(
    sdk: Sdk, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({1})
    answer = sdk.variation(png, n=3, extra_body={"seed": 5})
    assert [one.model_extra for one in answer.data or ()] == [
        {"index": 0, "seed": 5},
        {"index": 2, "seed": 7},
    ]
    assert answer.model_extra
    [note] = answer.model_extra["flagged"]
    assert (note["index"], note["seed"]) == (1, 6)
    assert "safety checker" in note["note"]


def test_where_every_picture_is_flagged_it_is_a_violation_of_the_policy(
    sdk: Sdk, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({0, 1})
    error = error_of(lambda: sdk.variation(png, n=2), openai.BadRequestError, 400)
    assert error.code == "content_policy_violation"


def test_a_stream_brings_previews_and_each_picture_as_openais_events(
    sdk: Sdk, engine: FakeEngine, png: bytes
) -> None:
    engine.preview_gate.held = True
    wish = {"partial_images": 2, "num_inference_steps": 2, "n": 2, "seed": 5}
    partial, *_, first, second = sdk.stream(png, seen=lambda _: engine.preview_gate.open(), **wish)
    assert partial.type == "image_edit.partial_image"
    assert partial.partial_image_index == 0
    assert partial.model_extra == {"index": 0, "seed": 5}
    with opened(base64.b64decode(partial.b64_json)) as image:
        assert image.format == "JPEG"
    assert first.type == "image_edit.completed"
    assert second.type == "image_edit.completed"
    assert [first.model_extra, second.model_extra] == [
        {"index": 0, "seed": 5},
        {"index": 1, "seed": 6},
    ]
    assert first.usage.total_tokens == 0
    assert (first.size, first.output_format, first.background) == ("64x64", "png", "opaque")
    with opened(base64.b64decode(first.b64_json)) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))


def test_a_stream_says_which_picture_was_flagged(sdk: Sdk, engine: FakeEngine, png: bytes) -> None:
    engine.flagged = frozenset({0})
    told: list[Any] = list(sdk.stream(png, n=2))
    assert [one.type for one in told] == ["image_edit.flagged", "image_edit.completed"]
    assert "safety checker" in told[0].note


def test_an_error_in_a_stream_is_raised(sdk: Sdk, engine: FakeEngine, png: bytes) -> None:
    engine.flagged = frozenset({0})
    with pytest.raises(openai.APIError, match="stopped every picture") as raised:
        sdk.stream(png)
    assert raised.value.code == "content_policy_violation"


def test_a_refused_stream_has_its_status(sdk: Sdk, engine: FakeEngine, png: bytes) -> None:
    error_of(lambda: sdk.stream(png, n=99), openai.BadRequestError, 400)


class Traffic:
    """Answers as the SDK sees them, with the moments of questions and answers."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.asked: list[float] = []
        self.answered: list[tuple[float, int, Any]] = []
        self._then = then

    def client(self, make: Callable[..., Sdk]) -> Any:
        if make is SDKS["sync"]:
            return DefaultHttpx2Client(
                event_hooks={"request": [self._ask], "response": [self._answer]}
            )

        async def ask(request: Any) -> None:
            self._ask(request)

        async def answer(response: Any) -> None:
            self._answer(response)

        return DefaultAsyncHttpx2Client(event_hooks={"request": [ask], "response": [answer]})

    def _ask(self, _request: Any) -> None:
        self.asked.append(time.monotonic())

    def _answer(self, response: Any) -> None:
        self.answered.append((time.monotonic(), response.status_code, response.headers))
        self._then()


def test_who_is_refused_for_a_full_queue_comes_back_when_told(
    make: Callable[..., Sdk], url: str, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    engine.predicted = Span(0.0, 0.2)
    traffic = Traffic(then=engine.gate.open)
    with ThreadPoolExecutor(1) as other:
        files = {"image": ("a.png", png)}
        first = other.submit(httpx.post, f"{url}/variations", files=files, timeout=60)
        assert engine.gate.reached.acquire(timeout=60)
        sdk = make(url, {"http_client": traffic.client(make), "max_retries": 30})
        assert sdk.variation(png).data
        assert first.result().status_code == 200
    (refused, status, headers), *_ = traffic.answered
    assert status == 429
    told = int(headers["retry-after-ms"]) / 1000
    assert traffic.asked[1] - refused >= told
    assert traffic.answered[-1][1] == 200


def test_what_would_fail_again_is_not_tried_again(
    make: Callable[..., Sdk], url: str, engine: FakeEngine, png: bytes
) -> None:
    engine.error = AttemptsExhausted("a worker ended during each of its attempts")
    traffic = Traffic()
    sdk = make(url, {"http_client": traffic.client(make)})
    error = error_of(lambda: sdk.variation(png), openai.InternalServerError, 500)
    assert (error.type, error.code) == ("server_error", "attempts_exhausted")
    assert len(traffic.asked) == 1
    engine.worker = WorkerState("failed", "it cannot start")
    sdk = make(url, {"http_client": traffic.client(make)})
    error_of(lambda: sdk.variation(png), openai.InternalServerError, 503)
    assert len(traffic.asked) == 2


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """A service with a key, that takes small uploads and makes no previews."""
    settings = Settings(api_keys=KEY, max_upload_bytes=4096)  # type: ignore[arg-type]
    with serving(create_app(settings, FakeEngine(), FakeDecoders())) as url:
        yield url


def test_a_key_is_asked_for_and_an_upload_may_be_too_large(
    make: Callable[..., Sdk], locked: str, png: bytes
) -> None:
    wrong, right = make(locked), make(locked, {"api_key": KEY})
    for call in (lambda: wrong.variation(png), wrong.models, lambda: wrong.model("fake")):
        error = error_of(call, openai.AuthenticationError, 401)
        assert error.code == "invalid_api_key"
    assert right.variation(png).data
    assert right.models()
    error = error_of(lambda: right.variation(png.ljust(9999)), openai.APIStatusError, 413)
    assert error.code == "too_large"
    error = error_of(lambda: right.stream(png, partial_images=1), openai.BadRequestError, 400)
    assert error.param == "partial_images"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/images/variations", {}, 405),
        ("POST", "/v1/images/variations", {}, 401),
        ("POST", "/v1/images/variations", {"authorization": f"Bearer {KEY}"}, 400),
    ],
)
def test_every_error_has_openais_four_keys(
    locked: str, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = httpx.request(method, f"{locked}{path}", headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


def test_an_address_that_was_never_told_leads_nowhere(client: httpx.Client) -> None:
    assert_problem(client.get("/pictures/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), 404)


def test_an_address_is_not_told_to_whoever_reads_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client.get("/pictures/a-name-that-is-secret")
    eventually(lambda: "GET /pictures/{name} 404" in caplog.text)
    assert "/pictures/a-name" not in "".join(
        one.getMessage() for one in caplog.records if one.name.startswith("app")
    )
