"""Accepted, but not finished in time."""

import pytest

from app.settings import Settings
from tests.api.conftest import Post
from tests.api.fakes import FakeEngine
from tests.api.test_problems import assert_problem


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(request_timeout=0.2)


def test_a_request_past_its_deadline_is_a_504_and_cancelled(post: Post, engine: FakeEngine) -> None:
    engine.hold = True
    body = assert_problem(post(), 504)
    assert "0.2 s" in body["detail"]
    assert engine.cancelled.wait(30)


def test_a_request_within_its_deadline_is_answered(post: Post) -> None:
    assert post().status_code == 200
