"""Every error is a problem after RFC 9457, with the status that the table gives it."""

from collections.abc import Iterator

import httpx
import pytest

from app.api import openai, problems
from app.engine.lifecycle import WorkerState
from app.errors import (
    AttemptsExhausted,
    BadInput,
    DeadlineExceeded,
    DecoderDied,
    GenerationFailed,
    NotReady,
    QueueFull,
    Refused,
    TooCostly,
    VariationsError,
    WorkerUnavailable,
)
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem


def tree(kind: type[VariationsError]) -> Iterator[type[VariationsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def test_every_error_has_a_title_of_its_own_and_a_status_that_is_documented() -> None:
    kinds = [one for one in tree(VariationsError) if not one.__module__.startswith("app.client")]
    assert len({kind.title for kind in kinds}) == len(kinds)
    documented = problems.documented() | openai.documented()
    assert {kind.status for kind in kinds} == set(documented)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (QueueFull("full", retry_after=1.2), 429, "queue-full"),
        (NotReady("not yet", retry_after=3), 503, "not-ready"),
        (GenerationFailed("it broke"), 500, "generation-failed"),
        (WorkerUnavailable("it died"), 503, "worker-unavailable"),
        (DeadlineExceeded("too late"), 504, "deadline-exceeded"),
        (BadInput("bad", field="image"), 422, "bad-input"),
    ],
)
def test_an_error_of_the_engine_is_told_to_the_caller(
    post: Post, engine: FakeEngine, error: VariationsError, status: int, kind: str
) -> None:
    engine.error = error
    response = post()
    body = assert_problem(response, status)
    assert body["type"] == f"urn:variations:{kind}"
    assert (body["title"], body["detail"]) == (error.title, error.message)
    assert body["instance"] == "/variations"
    if isinstance(error, Refused | WorkerUnavailable):
        assert int(response.headers["retry-after"]) >= 1


def test_a_request_that_ended_its_workers_is_not_to_be_sent_again(
    post: Post, engine: FakeEngine
) -> None:
    engine.error = AttemptsExhausted("three workers ended")
    response = post()
    assert_problem(response, 500)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TooCostly("it takes more than 20 seconds", field="image"), 413),
        (DecoderDied("it ended before it was done", field="image"), 422),
    ],
)
def test_a_picture_that_its_decoder_could_not_decode_is_a_problem_of_the_field_image(
    post: Post, engine: FakeEngine, decoders: FakeDecoders, error: BadInput, status: int
) -> None:
    decoders.error = error
    (found,) = assert_problem(post(), status)["errors"]
    assert found == {"field": "image", "message": error.message}
    assert not engine.parameters


def test_a_retry_after_is_rounded_up_to_whole_seconds(post: Post, engine: FakeEngine) -> None:
    engine.error = QueueFull("full", retry_after=1.2)
    assert post().headers["retry-after"] == "2"


def test_an_unexpected_error_is_a_500_that_tells_nothing_of_the_inside(
    post: Post, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = ZeroDivisionError("secret inside")
    response = post()
    body = assert_problem(response, 500)
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert body["request_id"] in record.getMessage()
    assert record.levelname == "ERROR"


def test_a_wrong_path_and_a_wrong_method_are_problems(client: httpx.Client) -> None:
    assert "/docs" in assert_problem(client.get("/nothing"), 404)["detail"]
    response = client.get("/variations")
    assert "use POST" in assert_problem(response, 405)["detail"]
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"hello", 400), (b"", 400), (b"8BPS\0\1" + bytes(40), 415)],
)
def test_a_bad_picture_is_a_problem_of_the_field_image(
    post: Post, data: bytes, status: int
) -> None:
    (error,) = assert_problem(post(data), status)["errors"]
    assert error["field"] == "image"


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "text/plain", ""])
def test_another_content_type_is_a_415_that_shows_the_right_one(
    client: httpx.Client, png: bytes, content_type: str
) -> None:
    response = client.post("/variations", content=png, headers={"content-type": content_type})
    assert "-F image=@photo.jpg" in assert_problem(response, 415)["detail"]


def test_a_service_that_is_not_ready_says_why(post: Post, engine: FakeEngine) -> None:
    engine.worker = WorkerState("starting", "downloading the checkpoint", 0.3)
    response = post()
    assert "downloading the checkpoint" in assert_problem(response, 503)["detail"]
    assert int(response.headers["retry-after"]) >= 1
