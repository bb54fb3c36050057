"""The number of threads: the fewest that do, and looked at again where steps become unusual."""

from collections.abc import Callable

import pytest

from app.worker.threads import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    TRIAL_STEPS,
    USUAL_STEPS,
    Threads,
    candidates,
    choose,
)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 1.0}, 1),
        ({1: 1.0, 2: 0.95}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 10.0}, 1),
        ({1: 1.0, 8: 0.3, 16: 0.29}, 8),
        ({1: 1.0, 8: 0.3, 16: 0.2}, 16),
    ],
)
def test_more_threads_are_chosen_where_they_gain_a_tenth(
    seconds: dict[int, float], chosen: int
) -> None:
    assert choose(list(seconds), seconds.__getitem__) == chosen


def test_openmps_own_variable_leaves_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert candidates()[0] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert len(candidates()) == 1


class Machine:
    """Steps whose slowness depends on the number of threads, by ``slowness``, which may change."""

    def __init__(self, *, count: int) -> None:
        self.slowness: Callable[[int], float] = lambda _: 1.0
        self.threads = Threads([1, 2], count, self.set)
        self.taken: list[int] = []

    def set(self, count: int) -> None:
        self.count = count

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.taken.append(self.count)
            self.threads.stepped(self.slowness(self.count))


def test_while_steps_are_as_usual_little_is_tried() -> None:
    machine = Machine(count=2)
    machine.slowness = lambda count: 1.4 if count == 1 else 1.0
    machine.run(20 * LONGEST_PAUSE)
    assert machine.taken.count(1) < len(machine.taken) / 200
    assert machine.threads.count == 2


@pytest.mark.parametrize(("chosen", "better"), [(2, 1), (1, 2)])
def test_a_number_that_was_chosen_on_a_busy_machine_does_not_stay(chosen: int, better: int) -> None:
    machine = Machine(count=chosen)
    machine.slowness = lambda count: 0.5 if count == better else 1.0
    machine.run(FIRST_PAUSE + 2 * TRIAL_STEPS)
    assert machine.threads.count == machine.count == better


def test_where_others_take_the_cores_one_thread_is_found_to_be_better() -> None:
    machine = Machine(count=2)
    machine.run(FIRST_PAUSE)
    machine.slowness = lambda count: 3.0 if count == 1 else 8.0
    machine.run(USUAL_STEPS + 2 * TRIAL_STEPS)
    assert machine.threads.count == machine.count == 1


def test_when_they_have_gone_more_threads_are_taken_again() -> None:
    machine = Machine(count=2)
    machine.run(FIRST_PAUSE)
    machine.slowness = lambda count: 3.0 if count == 1 else 8.0
    machine.run(200)
    machine.slowness = lambda count: 1.4 if count == 1 else 1.0
    machine.run(200)
    assert machine.threads.count == machine.count == 2


def test_a_trial_that_is_hopeless_ends_at_once() -> None:
    machine = Machine(count=1)
    machine.run(FIRST_PAUSE)
    machine.slowness = lambda count: 2.0 if count == 1 else 50.0
    machine.run(1000)
    assert machine.taken.count(2) <= 6  # once for each of the trials, which come less and less
    assert machine.threads.count == 1


def test_trials_that_change_nothing_become_rare() -> None:
    machine = Machine(count=1)
    slow = iter([1.0, 2.0] * LONGEST_PAUSE)
    for _ in range(100):
        now = next(slow)
        machine.slowness = lambda _, now=now: now  # type: ignore[misc]
        machine.run(100)
    assert machine.taken.count(2) < len(machine.taken) / 50
