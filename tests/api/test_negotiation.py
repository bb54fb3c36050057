"""Which answer a caller wants."""

import httpx
import pytest

from app.api.negotiation import EVENTS, JSON, acceptable
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem

PNG, WEBP = "image/png", "image/webp"
OFFERED = (JSON, EVENTS, PNG, WEBP)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", OFFERED),
        ("*/*", OFFERED),
        ("text/event-stream", [EVENTS]),
        ("TEXT/Event-Stream ; Q=0.5", [EVENTS]),
        ("image/*", [PNG, WEBP]),
        ("image/webp, image/*;q=0.8, */*;q=0.1", [WEBP, PNG, JSON, EVENTS]),
        ("text/event-stream, application/json", [EVENTS, JSON]),
        ("application/json;q=0.2, image/png;q=0.9", [PNG, JSON]),
        ("*/*, image/*;q=0, image/png;q=0.5", [JSON, EVENTS, PNG]),
        ("application/json;charset=utf-8;q=1", [JSON]),
        ("text/html, image/avif", []),
        ("*/*;q=0", []),
        ("application/json;q=much", []),
        (",;,", []),
    ],
)
def test_the_most_specific_range_gives_the_weight_and_the_header_the_order(
    header: str, accepted: list[str]
) -> None:
    assert acceptable(header, OFFERED) == list(accepted)


def test_a_caller_that_takes_no_answer_there_is_learns_what_there_is(
    client: httpx.Client, engine: FakeEngine
) -> None:
    response = client.post("/variations", content=b"unread", headers={"accept": "text/html"})
    assert "application/json, text/event-stream" in assert_problem(response, 406)["detail"]
    assert not engine.parameters


def test_a_caller_that_takes_any_gets_json(post: Post) -> None:
    response = post()
    assert response.headers["content-type"] == JSON
    assert response.headers["vary"] == "accept"
