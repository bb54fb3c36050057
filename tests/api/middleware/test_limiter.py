"""The bounded number of accepted requests, and the time after which a refused caller comes back."""

from contextlib import ExitStack
from random import Random

import pytest

from app.api.middleware.limiter import JITTER, UNKNOWN_SECONDS, WRITING_SECONDS, Limiter
from app.errors import QueueFull, QuotaExceeded, Refused


class Door:
    """A limiter whose predicted finishes the test sets."""

    def __init__(self, limit: int, quota: int | None = None, seed: int = 0) -> None:
        self.finishes: dict[str, float] = {}
        self.limiter = Limiter(limit, quota, lambda: self.finishes, Random(seed))
        self._inside: dict[str, ExitStack] = {}

    def enter(self, name: str, caller: str = "", finish: float | None = None) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.limiter.admit(name, caller))
            self._inside[name] = stack.pop_all()
        if finish is not None:
            self.finishes[name] = finish

    def leave(self, name: str) -> None:
        self.finishes.pop(name, None)
        self._inside.pop(name).close()

    def refused(self, caller: str = "") -> float:
        """The seconds after which a newcomer is told to ask again."""
        with pytest.raises(Refused) as refusal:
            self.enter("a newcomer", caller)
        assert refusal.value.retry_after is not None
        return refusal.value.retry_after


def assert_after(told: float, seconds: float) -> None:
    """The time told is that of the finish and the writing, or up to a quarter more."""
    earliest = seconds + WRITING_SECONDS
    assert earliest <= told <= JITTER * earliest


def test_the_number_of_requests_is_bounded_and_whoever_leaves_makes_room() -> None:
    door = Door(2)
    door.enter("a")
    door.enter("b")
    with pytest.raises(QueueFull, match="2 requests are waiting or being made"):
        door.enter("c")
    assert door.limiter.taken == 2
    door.leave("a")
    assert door.limiter.taken == 1
    door.enter("c")


def test_a_request_that_fails_makes_room_too() -> None:
    door = Door(1)
    with pytest.raises(ZeroDivisionError), door.limiter.admit("a", ""):
        raise ZeroDivisionError
    door.enter("b")


def test_a_refused_caller_is_told_when_the_first_answer_will_be_written() -> None:
    door = Door(2)
    door.enter("a", finish=5.0)
    door.enter("b", finish=0.3)
    assert_after(door.refused(), 0.3)


def test_while_all_are_uploading_the_time_is_a_guess() -> None:
    door = Door(1)
    door.enter("uploading")
    assert_after(door.refused(), UNKNOWN_SECONDS)


def test_callers_that_are_refused_together_are_told_different_times() -> None:
    door = Door(1)
    door.enter("a", finish=8.0)
    told = [door.refused() for _ in range(20)]
    assert len(set(told)) == 20
    for seconds in told:
        assert_after(seconds, 8.0)


def test_a_key_over_its_quota_is_told_when_its_own_first_is_done() -> None:
    door = Door(9, quota=2)
    door.enter("a", "theirs", finish=0.1)
    door.enter("b", "ours", finish=4.0)
    door.enter("c", "ours", finish=3.0)
    with pytest.raises(QuotaExceeded, match="2 requests of this API key"):
        door.enter("d", "ours")
    assert_after(door.refused(caller="ours"), 3.0)
    door.enter("e", "theirs")
    door.leave("b")
    door.enter("f", "ours")
