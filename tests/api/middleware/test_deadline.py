"""Accepted, but not finished in time."""

import httpx
import pytest

from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(request_timeout=0.5)


def test_a_request_past_its_deadline_is_a_504_and_cancelled(post: Post, engine: FakeEngine) -> None:
    engine.hold = True
    engine.foreseen = Span(0.0, 0.1)
    body = assert_problem(post(), 504)
    assert "0.5 s" in body["detail"]
    assert engine.cancelled.wait(30)


def test_a_request_within_its_deadline_is_answered(post: Post, engine: FakeEngine) -> None:
    engine.foreseen = Span(0.0, 0.1)
    assert post().status_code == 200


def test_what_cannot_be_done_in_time_is_refused_at_once(post: Post, engine: FakeEngine) -> None:
    engine.foreseen = Span(9.9, 10.0)
    response = post()
    body = assert_problem(response, 503)
    assert "about 10.0 s" in body["detail"]
    assert 9.5 <= body["retry_after"] <= 10
    assert 9500 <= int(response.headers["retry-after-ms"]) <= 10_000
    assert not engine.pictures


def test_what_takes_too_long_by_itself_is_not_to_be_tried_again(
    post: Post, engine: FakeEngine
) -> None:
    engine.foreseen = Span(1.0, 10.0)
    response = post()
    body = assert_problem(response, 503)
    assert "with nothing else to do they take 9.0 s" in body["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert "retry_after" not in body


def test_when_idle_what_was_slow_of_late_is_tried(post: Post, engine: FakeEngine) -> None:
    """Or nothing would ever be learned again."""
    engine.foreseen = Span(9.9, 10.0)
    engine.trying = True
    assert post().status_code == 200


def test_a_caller_may_ask_for_an_earlier_deadline(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.foreseen = Span(0.0, 0.1)
    files = {"image": ("a.png", png)}
    hurried = client.post("/variations", files=files, headers={"x-request-timeout": "0.05"})
    assert "0.05 s that this request may take" in assert_problem(hurried, 503)["detail"]
    patient = client.post("/variations", files=files, headers={"x-request-timeout": "500"})
    assert patient.status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan"])
def test_a_deadline_that_is_none_is_a_422(client: httpx.Client, png: bytes, given: str) -> None:
    response = client.post(
        "/variations", files={"image": ("a.png", png)}, headers={"x-request-timeout": given}
    )
    assert assert_problem(response, 422)["errors"][0]["field"] == "x-request-timeout"
