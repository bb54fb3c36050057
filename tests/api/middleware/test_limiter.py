"""The bounded numbers of uploads and accepted requests, their shares, and when to come back."""

from contextlib import ExitStack, suppress
from random import Random

import pytest

from app.api.middleware.limiter import (
    ACTIVE_SECONDS,
    JITTER,
    LEAST_UPLOADS,
    TURN_SECONDS,
    UNKNOWN_SECONDS,
    UPLOADS_PER_PLACE,
    WRITING_SECONDS,
    Limiter,
)
from app.errors import QueueFull, QuotaExceeded, Refused, ShareExceeded, TooManyUploads

KEYS = ["one", "two", "three", "four"]


class Door:
    """A limiter whose clock and predicted finishes the test sets."""

    def __init__(self, limit: int, quota: int | None = None, seed: int = 0) -> None:
        self.finishes: dict[str, float] = {}
        self.now = 1000.0
        self.limiter = Limiter(limit, quota, lambda: self.finishes, Random(seed), lambda: self.now)
        self._inside: dict[str, ExitStack] = {}

    def upload(self, name: str, caller: str = "") -> None:
        """The head of a request has arrived."""
        with ExitStack() as stack:
            stack.enter_context(self.limiter.admit(name, caller))
            self._inside[name] = stack.pop_all()

    def enter(self, name: str, caller: str = "", finish: float | None = None) -> None:
        """A whole request has arrived."""
        self.upload(name, caller)
        try:
            self.limiter.accept(name)
        except Refused:
            self.leave(name)
            raise
        if finish is not None:
            self.finishes[name] = finish

    def enters(self, name: str, caller: str) -> bool:
        """It asks, and gets in or not."""
        try:
            self.enter(name, caller)
        except Refused:
            return False
        return True

    def leave(self, name: str) -> None:
        self.finishes.pop(name, None)
        self._inside.pop(name).close()

    def refused(self, caller: str = "") -> float:
        """The seconds after which a newcomer is told to ask again."""
        with pytest.raises(Refused) as refusal:
            self.enter("a newcomer", caller)
        assert refusal.value.retry_after is not None
        return refusal.value.retry_after


class Crowd:
    """Callers that ask again and again for as much as they can get, over one door."""

    def __init__(self, door: Door, callers: list[str]) -> None:
        self.door, self.callers = door, callers
        self.held: list[tuple[str, str]] = []
        self._asked = 0

    def hammer(self, times: int = 3) -> None:
        """All of them ask so often, 20 ms apart."""
        for caller in times * self.callers:
            self.door.now += 0.02
            self._asked += 1
            name = f"{caller} {self._asked}"
            if self.door.enters(name, caller):
                self.held.append((name, caller))

    def finish_one(self) -> None:
        """The oldest request is answered, and they ask on."""
        name, _ = self.held.pop(0)
        self.door.leave(name)
        self.hammer()

    def count(self, caller: str) -> int:
        return sum(owner == caller for _, owner in self.held)


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

    def failing() -> None:
        with door.limiter.admit("a", ""):
            door.limiter.accept("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    door.enter("b")


def test_a_refused_caller_is_told_when_the_first_answer_will_be_written() -> None:
    door = Door(2)
    door.enter("a", finish=5.0)
    door.enter("b", finish=0.3)
    assert_after(door.refused(), 0.3)


def test_where_nothing_is_known_of_any_request_the_time_is_a_guess() -> None:
    door = Door(1)
    door.enter("accepted")
    assert_after(door.refused(), UNKNOWN_SECONDS)


def test_a_request_that_is_decoded_is_told_of_as_it_was_expected() -> None:
    door = Door(2)
    for name, seconds in (("a", 9.0), ("b", 4.0)):
        door.enter(name)
        door.limiter.expect(name, seconds)
    door.now += 1.0
    assert_after(door.refused(), 3.0)
    door.finishes["b"] = 7.5  # it has been submitted, behind more than was thought
    assert_after(door.refused(), 7.5)


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


# Uploads


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_uploads_take_no_places(limit: int) -> None:
    door = Door(limit)
    for number in range(limit):
        door.upload(f"upload {number}")
    assert door.limiter.uploads == limit
    for number in range(limit):
        door.enter(f"whole {number}")


def test_an_upload_that_is_whole_too_late_is_refused_after_all() -> None:
    door = Door(1)
    door.upload("slow")
    door.enter("quick")
    with pytest.raises(QueueFull):
        door.limiter.accept("slow")
    door.leave("slow")
    door.leave("quick")
    assert door.limiter.taken == 0


def test_a_full_queue_is_told_before_anything_arrives() -> None:
    door = Door(1)
    door.enter("a")
    with pytest.raises(QueueFull):
        door.upload("b")
    assert door.limiter.uploads == 0


@pytest.mark.parametrize("limit", [1, 64])
def test_uploads_are_bounded_and_leave_room_for_those_of_others(limit: int) -> None:
    door = Door(limit)
    most = max(LEAST_UPLOADS, UPLOADS_PER_PLACE * limit)
    had = dict.fromkeys(KEYS, 0)
    for caller in KEYS:
        with suppress(TooManyUploads):
            while True:
                door.upload(f"{caller} {had[caller]}", caller)
                had[caller] += 1
        assert had[caller] >= 1
    assert sum(had.values()) <= most
    assert had[KEYS[0]] == most // 2


# Shares


@pytest.mark.parametrize(
    ("limit", "crowd"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (9, 2), (64, 1), (64, 2), (64, 3)]
)
def test_a_newcomer_with_its_own_key_gets_in_after_one_finish_at_most(
    limit: int, crowd: int
) -> None:
    """While all the others ask every 20 ms, and it comes back once, as told."""
    door = Door(limit)
    others = Crowd(door, KEYS[:crowd])
    others.hammer(2 * limit)
    assert len(others.held) >= limit - crowd
    for number in range(3):
        if door.enters(f"first try {number}", "polite"):
            door.leave(f"first try {number}")
        else:
            others.finish_one()
            assert door.enters(f"second try {number}", "polite")
            others.hammer()
            door.leave(f"second try {number}")
        others.hammer(2 * limit)


@pytest.mark.parametrize("limit", [1, 2])
def test_where_there_are_fewer_places_than_callers_they_take_turns(limit: int) -> None:
    door = Door(limit)
    served = dict.fromkeys(KEYS, 0)
    holding: list[tuple[str, str]] = []
    for round_ in range(8 * len(KEYS)):
        for caller in KEYS[:1] * 5 + KEYS:  # the first asks more often than the others
            door.now += 0.02
            if door.enters(name := f"{caller} {round_} {door.now}", caller):
                holding.append((name, caller))
                served[caller] += 1
        door.leave(holding.pop(0)[0])
    assert max(served.values()) - min(served.values()) <= 1, served


def test_a_lone_key_may_have_all_places_and_gives_them_up_to_an_even_share() -> None:
    door = Door(6)
    crowd = Crowd(door, ["one"])
    crowd.hammer(9)
    assert crowd.count("one") == 6
    crowd.callers.append("two")
    for _ in range(6):
        crowd.finish_one()
    assert [crowd.count(name) for name in ("one", "two")] == [3, 3]
    with pytest.raises(ShareExceeded, match="3 are as many as one key may have now"):
        door.enter("more", "one")
    crowd.callers.append("three")
    for _ in range(6):
        crowd.finish_one()
    assert [crowd.count(name) for name in ("one", "two", "three")] == [2, 2, 2]


def test_a_key_counts_among_the_others_for_a_while_after_its_last_request() -> None:
    door = Door(4)
    door.enter("a", "brief")
    door.leave("a")
    crowd = Crowd(door, ["steady"])
    crowd.hammer(4)
    assert crowd.count("steady") == 2
    door.now += ACTIVE_SECONDS
    crowd.hammer(4)
    assert crowd.count("steady") == 4


def test_a_quota_takes_the_place_of_the_share() -> None:
    door = Door(4, quota=3)
    crowd = Crowd(door, ["one"])
    crowd.hammer(9)
    crowd.callers.append("two")
    crowd.hammer(9)
    assert [crowd.count("one"), crowd.count("two")] == [3, 1]
    assert not door.enters("newcomer", "three")
    crowd.finish_one()
    assert door.enters("newcomer", "three")


def test_a_key_far_over_its_share_is_told_when_enough_of_its_own_are_done() -> None:
    door = Door(4)
    for number in range(4):
        door.enter(f"one {number}", "one", finish=10.0 * (1 + number))
    assert_after(door.refused(caller="two"), 10.0)
    assert_after(door.refused(caller="one"), 30.0)


def test_a_turn_that_is_not_taken_is_given_up() -> None:
    door = Door(1)
    door.enter("a", "one", finish=2.0)
    told = door.refused(caller="two")
    door.leave("a")
    assert not door.enters("b", "one")
    door.now += told + TURN_SECONDS + 0.1
    assert door.enters("c", "one")


def test_a_place_that_is_kept_outlasts_the_request_until_it_is_given_back() -> None:
    door = Door(limit=1)
    door.enter("stored")
    door.limiter.keep("stored", "")
    door.leave("stored")
    assert door.limiter.taken == 1
    with pytest.raises(QueueFull):
        door.enter("late")
    door.limiter.give_back("stored")
    door.enter("late")


def test_a_repeated_request_needs_no_place() -> None:
    door = Door(limit=1)
    door.enter("first")
    with door.limiter.admit("again", "", is_repeat=True):
        door.limiter.arrived("again")
        assert (door.limiter.taken, door.limiter.uploads) == (1, 0)
