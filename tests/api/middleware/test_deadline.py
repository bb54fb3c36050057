"""Deadlines: out of reach, or accepted and not finished in time."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem

LIMIT = 30.0
SOON, LATE = Span(0.0, 0.1), Span(99.9, 100.0)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(request_timeout=LIMIT)


def post_within(client: httpx.Client, png: bytes, seconds: object) -> httpx.Response:
    headers = {"x-request-timeout": str(seconds)}
    return client.post("/variations", files={"image": ("a.png", png)}, headers=headers)


def test_a_request_past_its_deadline_is_a_504_and_cancelled(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.gate.held = True
    engine.predicted = SOON
    body = assert_problem(post_within(client, png, 1.5), 504)
    assert "1.5 s" in body["detail"]
    assert engine.gone.wait(60)


def test_a_request_within_its_deadline_is_answered(post: Post, engine: FakeEngine) -> None:
    engine.predicted = SOON
    assert post().status_code == 200


def test_a_request_that_cannot_be_done_in_time_is_refused_at_once(
    post: Post, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = LATE
    response = post()
    body = assert_problem(response, 503)
    assert "about 100.0 s" in body["detail"]
    assert LATE.finished - LIMIT <= body["retry_after"] <= LATE.finished
    assert int(response.headers["retry-after-ms"]) == pytest.approx(
        1000 * body["retry_after"], abs=2
    )
    assert not decoders.gate.reached.acquire(blocking=False), "its picture was decoded"
    assert not engine.parameters


def test_a_request_that_takes_too_long_by_itself_is_not_to_be_tried_again(
    post: Post, engine: FakeEngine
) -> None:
    engine.predicted = Span(1.0, 100.0)
    response = post()
    body = assert_problem(response, 503)
    assert "with nothing else to do they take 99.0 s" in body["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert "retry_after" not in body


def test_when_idle_a_request_that_was_slow_of_late_is_tried_once(
    post: Post, engine: FakeEngine
) -> None:
    """Or nothing would ever be learned again."""
    engine.predicted = LATE
    engine.trials = 1
    assert [post().status_code, post().status_code] == [200, 503]


def test_requests_that_came_in_while_a_picture_was_decoded_are_reckoned_with(
    post: Post, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = SOON
    decoders.gate.held = True
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(post)
        assert decoders.gate.reached.acquire(timeout=60)
        engine.predicted = LATE
        decoders.gate.open()
        assert "about 100.0 s" in assert_problem(answer.result(), 503)["detail"]
    assert not engine.parameters


def test_a_caller_may_ask_for_an_earlier_deadline(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.predicted = Span(4.9, 5.0)
    hurried = post_within(client, png, 4)
    assert "4 s that this request may take" in assert_problem(hurried, 503)["detail"]
    assert post_within(client, png, 500).status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan"])
def test_a_deadline_that_is_no_time_is_a_422(client: httpx.Client, png: bytes, given: str) -> None:
    response = post_within(client, png, given)
    assert assert_problem(response, 422)["errors"][0]["field"] == "x-request-timeout"
