"""Places in the queue, and the times at which they are promised."""

from contextlib import ExitStack

import pytest

from app.api.middleware.limiter import AFTERWARDS_SECONDS, HELD_SECONDS, UNKNOWN_SECONDS, Slots
from app.errors import QueueFull, QuotaExceeded, Refused


class Door:
    """Slots with a clock and finishes that the test sets."""

    def __init__(self, limit: int, quota: int | None = None) -> None:
        self.now = 100.0
        self.ends: dict[str, float] = {}
        self.slots = Slots(limit, quota, lambda: self.ends, lambda: self.now)
        self._stack: dict[str, ExitStack] = {}

    def enter(self, name: str, caller: str = "", end: float | None = None) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.slots.place(name, caller))
            self._stack[name] = stack.pop_all()
        if end is not None:
            self.ends[name] = end

    def leave(self, name: str) -> None:
        self.ends.pop(name, None)
        self._stack.pop(name).close()

    def refused(self, name: str = "refused", caller: str = "") -> float:
        """The seconds after which it is told to ask again."""
        with pytest.raises(Refused) as refusal:
            self.enter(name, caller)
        assert refusal.value.retry_after is not None
        return refusal.value.retry_after


def full() -> Door:
    door = Door(3)
    for name, end in (("a", 0.3), ("b", 0.6), ("c", 5.0)):
        door.enter(name, end=end)
    return door


def test_places_are_bounded_and_come_back() -> None:
    door = Door(2)
    door.enter("a")
    door.enter("b")
    with pytest.raises(QueueFull, match="All 2 places"):
        door.enter("c")
    door.leave("a")
    assert door.slots.taken == 1


@pytest.mark.parametrize(("end", "told"), [(0.3, 1), (0.95, 2), (4.2, 5)])
def test_who_is_refused_is_told_the_whole_second_after_the_first_place_is_free(
    end: float, told: float
) -> None:
    door = Door(1)
    door.enter("a", end=end)
    assert door.refused() == pytest.approx(told)


def test_a_place_that_will_be_needed_is_kept_from_newcomers() -> None:
    door = full()
    told = door.refused()
    door.leave("a")
    door.enter("there will be another")
    door.leave("b")
    door.refused("a newcomer, a little early")
    door.now += told
    door.enter("as told")


def test_a_place_is_not_kept_if_the_next_comes_in_time() -> None:
    door = full()
    door.refused()
    door.leave("a")
    door.enter("for b will be done by then", end=9.0)
    door.refused("and nobody after that")


def test_a_place_whose_promise_lapsed_is_anybodys() -> None:
    door = full()
    told = door.refused()
    door.leave("a")
    door.enter("anybody", end=9.0)
    door.leave("b")
    door.now += told + HELD_SECONDS
    door.enter("anybody else")


def test_once_the_queue_has_half_emptied_nothing_is_kept() -> None:
    door = full()
    for _ in range(5):
        door.refused()
    door.leave("a")
    door.leave("b")
    for name in "xy":
        door.enter(name, end=9.0)


def test_while_all_are_uploading_the_time_is_a_guess() -> None:
    door = Door(1)
    door.enter("uploading")
    assert door.refused() == pytest.approx(UNKNOWN_SECONDS)


def test_a_key_over_its_quota_is_told_when_its_own_first_is_done() -> None:
    door = Door(9, quota=2)
    door.enter("a", "theirs", end=0.1)
    door.enter("b", "ours", end=4.0)
    door.enter("c", "ours", end=3.0)
    with pytest.raises(QuotaExceeded, match="2 requests under way"):
        door.enter("d", "ours")
    assert door.refused(caller="ours") == pytest.approx(3.0 + AFTERWARDS_SECONDS)
    door.enter("e", "theirs")
    door.leave("b")
    door.enter("f", "ours")
