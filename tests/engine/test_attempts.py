"""Three attempts, the last one alone."""

import pytest

from app.engine import attempts
from app.engine.generation import Generation
from tests.support.generations import NoOwner
from tests.support.requests import SHORT_REQUEST, condition_for

pytestmark = pytest.mark.anyio


def generations(used: dict[str, int]) -> list[Generation]:
    """Generations that have used so many attempts up."""
    made = []
    for name, number in used.items():
        one = Generation(name, SHORT_REQUEST, condition_for(SHORT_REQUEST), NoOwner())
        one.attempts = number
        made.append(one)
    return made


def due(used: dict[str, int], submitted: str = "") -> str:
    return "".join(one.request_id for one in attempts.due(generations(used), set(submitted)))


async def test_all_are_due_that_the_worker_does_not_have() -> None:
    assert due({"a": 0, "b": 1, "c": 0}) == "abc"
    assert due({"a": 0, "b": 1, "c": 0}, submitted="ab") == "c"


async def test_a_last_attempt_is_made_alone_and_before_all_others() -> None:
    assert due({"a": 0, "b": 2, "c": 2, "d": 1}) == "b"
    assert due({"a": 0, "b": 2, "c": 2, "d": 1}, submitted="b") == ""
    assert due({"a": 0, "c": 2, "d": 1}) == "c"
    assert due({"a": 0, "d": 1}) == "ad"


async def test_a_last_attempt_waits_until_the_worker_has_nothing_else() -> None:
    assert due({"a": 0, "b": 2}, submitted="a") == ""


async def test_the_third_attempt_used_up_is_the_last() -> None:
    [one] = generations({"a": 0})
    assert attempts.use_up([one]) == []
    assert attempts.use_up([one]) == []
    assert attempts.is_last(one)
    assert attempts.use_up([one]) == [one]
