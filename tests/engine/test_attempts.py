"""Three attempts, the last one alone: the rule, and workers that are killed."""

import signal
from dataclasses import replace

import pytest

from app.engine import attempts
from app.engine.engine import Engine
from app.engine.generation import Generation, Restarted
from app.errors import AttemptsExhausted
from tests.support.engine import (
    Diary,
    assert_same,
    kill_while_running,
    make,
    signal_worker,
    submit,
)
from tests.support.requests import ENDLESS_REQUEST, SHORT_REQUEST, condition_for

pytestmark = pytest.mark.anyio

Running = tuple[Engine, Diary]


class NoOwner:
    """Hears of nothing that a generation's reader wants."""

    def cancelled(self, generation: Generation) -> None: ...
    def watched(self, generation: Generation) -> None: ...


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


# Over a real worker


async def test_when_the_worker_ends_its_requests_are_run_again_in_the_next(
    running: Running,
) -> None:
    engine, diary = running
    asked = replace(SHORT_REQUEST, n=2, num_inference_steps=60)
    before = await make(engine, "before", asked)
    diary.steps.clear()
    waiting = [submit(engine, f"waiting {number}", asked) for number in range(3)]
    await diary.until(lambda: bool(diary.steps))
    ended = signal_worker(engine, signal.SIGKILL)
    await diary.until(lambda: diary.ups[-1] is False)
    assert engine.accepting
    late = submit(engine, "late", asked)
    for generation in (*waiting, late):
        assert_same(await generation.result(), before)
    assert Restarted() in [event async for event in waiting[0].events()]
    assert Restarted() not in [event async for event in late.events()]
    assert engine.worker_pid != ended
    assert diary.causes == ["signal"]
    assert diary.counted["replayed"] == 3
    assert engine.pending == 0


async def test_the_third_attempt_is_made_alone_and_is_the_last(running: Running) -> None:
    """Neither is the cause, as the worker is killed from outside: the promise is the same."""
    engine, diary = running
    asked = replace(SHORT_REQUEST, n=4, num_inference_steps=60)
    before = await make(engine, "before", asked)
    lucky = submit(engine, "lucky", asked)
    unlucky = submit(engine, "unlucky", ENDLESS_REQUEST)
    for _ in range(2):
        await kill_while_running(engine, diary, "lucky", "unlucky")
    other = submit(engine, "other")
    await diary.until(lambda: diary.ups[-1])
    diary.steps.clear()
    assert_same(await lucky.result(), before)
    await kill_while_running(engine, diary, "unlucky")
    assert max(stats.requests for stats in diary.steps) == 1
    with pytest.raises(AttemptsExhausted, match="each of the 3 attempts"):
        await unlucky.result()
    assert await other.result()
    assert diary.counted["exhausted"] == 1
    assert await make(engine, "unlucky again", SHORT_REQUEST)


async def test_a_request_that_only_waits_uses_no_attempt_up(running: Running) -> None:
    engine, diary = running
    running_one = submit(engine, "runs", replace(ENDLESS_REQUEST, seed=1))
    second = submit(engine, "fills the batch", replace(ENDLESS_REQUEST, seed=2))
    patient = submit(engine, "waits", replace(ENDLESS_REQUEST, seed=3))
    for _ in range(2):
        await kill_while_running(engine, diary, "runs")
    assert running_one.attempts == 2
    assert patient.attempts == 0
    for generation in (running_one, second, patient):
        generation.cancel()
