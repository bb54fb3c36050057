"""Measured steps: interleaved, so that a busy moment of the machine decides nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch

from app.parameters import Condition, ModelConfig
from app.pipeline import Pipeline, Sample, Step
from app.scheduling.row_cap import find_row_cap
from app.worker import measuring
from app.worker.measuring import Stopwatch
from tests.support.requests import encoder_input


class Clock:
    """Seconds, and those of the processor, that pass only in steps."""

    def __init__(self) -> None:
        self.seconds = self.work = 0.0


class Timed(Pipeline):
    """The real pipeline, whose steps take the time that ``costs`` say for their rows."""

    clock: Clock
    costs: dict[int, float]
    threads_to_factor: Callable[[int], float] = staticmethod(lambda _: 1.0)
    threads = 1
    disturbed = 0
    """Steps to come that take ten times as long, since others have the core."""
    largest = 1000
    ran: list[int]

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        rows = bucket or 0
        if rows > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.ran.append(rows)
        seconds = self.costs[rows] * self.threads_to_factor(self.threads)
        self.clock.work += seconds
        self.clock.seconds += seconds * (10 if self.disturbed > 0 else 1)
        self.disturbed -= 1
        for sample in samples:
            sample.position += 1
        return Step(rows, rows)


COSTS = {2: 0.0177, 4: 0.0228, 8: 0.034, 16: 0.0565, 32: 0.104, 64: 0.2126, 128: 0.43}


@pytest.fixture
def timed(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[Timed, Stopwatch]:
    pipeline = Timed.load(config)
    pipeline.clock, pipeline.costs, pipeline.ran = Clock(), COSTS, []
    monkeypatch.setattr(measuring, "perf_counter", lambda: pipeline.clock.seconds)
    monkeypatch.setattr(measuring, "process_time", lambda: pipeline.clock.work)
    rows = pipeline.condition(Condition.guided(encoder_input(), 3.0))
    return pipeline, Stopwatch(pipeline, rows)


def test_rows_are_tried_until_more_gain_nothing(timed: tuple[Timed, Stopwatch]) -> None:
    pipeline, stopwatch = timed
    times = stopwatch.step_times()
    assert times.fits
    assert times.seconds == pytest.approx(COSTS)
    assert find_row_cap(times.seconds)[0] == 16
    for after in range(len(pipeline.ran) - 1, 2 * len(COSTS), -len(COSTS)):
        assert pipeline.ran[after - len(COSTS) + 1 : after + 1] == list(COSTS)


@pytest.mark.parametrize("disturbed", [1, 3, 8, 15, 40])
def test_busy_moments_change_nothing(timed: tuple[Timed, Stopwatch], disturbed: int) -> None:
    pipeline, stopwatch = timed
    pipeline.disturbed = disturbed
    assert find_row_cap(stopwatch.step_times().seconds)[0] == 16


@pytest.mark.parametrize(("disturbed", "expected"), [(0, 1.0), (1000, 10.0)])
def test_steps_tell_how_much_longer_they_took_for_others_work(
    timed: tuple[Timed, Stopwatch], disturbed: int, expected: float
) -> None:
    pipeline, stopwatch = timed
    pipeline.disturbed = disturbed
    assert stopwatch.step_times().disturbance == pytest.approx(expected)


def test_rows_are_chosen_by_what_steps_take_without_others_work(
    timed: tuple[Timed, Stopwatch],
) -> None:
    """One of these would be long enough not to try the next, were it the machine's own doing."""
    pipeline, stopwatch = timed
    pipeline.costs = {rows: 15 * seconds for rows, seconds in COSTS.items()}
    pipeline.disturbed = 1000
    times = stopwatch.step_times()
    assert times.undisturbed == pytest.approx({rows: pipeline.costs[rows] for rows in (2, 4, 8)})
    assert find_row_cap(times.undisturbed)[0] == 8


def test_a_number_that_does_not_fit_ends_the_search(timed: tuple[Timed, Stopwatch]) -> None:
    pipeline, stopwatch = timed
    pipeline.largest = 8
    times = stopwatch.step_times()
    assert (list(times.seconds), times.fits) == ([2, 4, 8], False)


def test_a_device_that_does_not_hold_the_smallest_step_is_told(
    timed: tuple[Timed, Stopwatch],
) -> None:
    pipeline, stopwatch = timed
    pipeline.largest = 1
    with pytest.raises(torch.OutOfMemoryError):
        stopwatch.step_times()


def test_long_steps_are_run_few_times(timed: tuple[Timed, Stopwatch]) -> None:
    pipeline, stopwatch = timed
    pipeline.costs = {rows: 4.2 * rows for rows in COSTS}
    times = stopwatch.step_times()
    assert list(times.seconds) == [2]
    assert len(pipeline.ran) == 3
    threads = torch.get_num_threads()
    try:
        assert stopwatch.choose_threads([1, 3]) == 3
    finally:
        torch.set_num_threads(threads)
    assert len(pipeline.ran) == 4


@pytest.mark.parametrize(("with_two", "expected"), [(0.7, 2), (1.5, 1), (1.0, 1)])
def test_the_number_of_threads_is_chosen_by_interleaved_steps(
    timed: tuple[Timed, Stopwatch],
    monkeypatch: pytest.MonkeyPatch,
    with_two: float,
    expected: int,
) -> None:
    pipeline, stopwatch = timed
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(pipeline, "threads", count))
    pipeline.threads_to_factor = lambda count: with_two if count == 2 else 1.0
    pipeline.disturbed = 3
    assert stopwatch.choose_threads([1, 2]) == pipeline.threads == expected
