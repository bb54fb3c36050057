"""Work that fails once, fails always, or fails for one of many."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from app.errors import GenerationFailed, InvalidParameter
from app.ipc.messages import Failed, RanOut, StepStats, WorkStage
from app.parameters import Condition, ModelConfig, Parameters
from app.pipeline import Decoded, Pipeline, Posterior, Row, Sample, Step
from app.worker.loop import NOT_DECODED, NOT_ENCODED, NOT_STEPPED
from app.worker.retry import NOT_ENOUGH_MEMORY, TRIES, Retry, for_the_caller
from tests.support.requests import encoder_input
from tests.support.workers import MIXED, PARAMETERS, Harness, assert_same, made_alone, submit

SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]
LOST = torch.AcceleratorError("CUDA error: an illegal memory access")


class Room:
    """Counts how often room was made."""

    def __init__(self) -> None:
        self.made: list[WorkStage] = []
        self.retry = Retry(self.made.append)


def failing(times: int, error: Exception) -> Callable[[], int]:
    """Raises so often, then returns how often it was called."""
    calls = 0

    def attempt() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return calls

    return attempt


def test_an_error_that_passes_is_tried_over() -> None:
    room = Room()
    assert room.retry.alone("encode", failing(TRIES - 1, RuntimeError("busy"))) == TRIES
    assert room.made == []


def test_the_last_trys_error_is_raised() -> None:
    with pytest.raises(RuntimeError, match="always"):
        Room().retry.alone("encode", failing(TRIES, RuntimeError("always")))


def test_our_own_errors_are_not_tried_over() -> None:
    with pytest.raises(GenerationFailed):
        Room().retry.alone("encode", failing(1, GenerationFailed("not finite")))


@pytest.mark.parametrize("error", SHORTAGES, ids=["torch", "CUDA", "cuDNN"])
def test_room_is_made_each_time_that_memory_ran_out(error: Exception) -> None:
    room = Room()
    assert room.retry.alone("decode", failing(2, error)) == 3
    assert room.made == ["decode", "decode"]


@pytest.mark.parametrize("tried", ["alone", "together"])
def test_room_is_made_once_nothing_holds_the_tensors_of_the_attempt_that_failed(tried: str) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def attempt(*_: object) -> list[int]:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return []

    retry = Retry(lambda _: alive.append(held[-1]() is not None))
    if tried == "alone":
        retry.alone("step", attempt)
    else:
        retry.in_halves("step", [1, 2], attempt, attempt)
    assert alive == [False]


def test_after_two_tries_the_smaller_way_is_taken() -> None:
    smaller = failing(0, LOST)
    assert Room().retry.alone("step", failing(TRIES, SHORTAGES[0]), smaller) == 1


def test_a_lost_device_is_not_tried_over() -> None:
    retry = Room().retry
    with pytest.raises(torch.AcceleratorError):
        retry.alone("step", failing(1, LOST))
    lost = failing(1, LOST)
    with pytest.raises(torch.AcceleratorError):
        retry.in_halves("step", [1, 2], lambda _: [lost()], lambda _: [lost()])


def test_the_one_that_fails_is_found_in_halves() -> None:
    tried: list[list[int]] = []

    def together(members: Sequence[int]) -> list[int]:
        tried.append(list(members))
        if 6 in members:
            raise SHORTAGES[0]
        return [10 * member for member in members]

    room = Room()
    results = room.retry.in_halves("step", range(8), together, lambda alone: [-alone])
    assert results == [0, 10, 20, 30, 40, 50, -6, -7]
    assert tried == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7]]
    assert room.made == ["step"] * 3


def test_callers_read_our_words_and_never_a_librarys() -> None:
    assert for_the_caller(RuntimeError("at /secret/path"), "failed") == ("failed", "failed")
    assert for_the_caller(GenerationFailed("too bright"), "failed") == ("too bright", "failed")
    wrong = InvalidParameter("not 50", field="num_inference_steps")
    assert for_the_caller(wrong, "failed") == ("not 50", "steps")
    for error in SHORTAGES:
        assert for_the_caller(error, "failed") == (NOT_ENOUGH_MEMORY, "memory")


# The same in the loop


class Breaking(Pipeline):
    """The real pipeline, made to raise in one of its verbs for the request of seed 666."""

    verb = ""
    error: Exception = RuntimeError("no such kernel at /secret/path")
    failing_sample: Sample | None = None

    def conditions(self, conditions: Sequence[Condition]) -> list[tuple[Row, ...]]:
        pictures = [condition.rows[0].pictures[0][0] for condition in conditions]
        if self.verb == "encode" and any(picture[0, 0, 0] == 666 for picture in pictures):
            raise self.error
        return super().conditions(conditions)

    def start(
        self,
        rows: Sequence[Row],
        parameters: Parameters,
        index: int,
        begins_from: Posterior | None = None,
    ) -> Sample:
        sample = super().start(rows, parameters, index, begins_from)
        if parameters.seed == 666:
            self.failing_sample = sample
        return sample

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        failing = self.failing_sample
        if self.verb == "step" and any(s is failing and s.steps_left == 2 for s in samples):
            raise self.error
        return super().step(samples, bucket)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        if self.verb == "decode" and self.failing_sample in samples:
            raise self.error
        return super().decode(samples, before_check)


MARKED = encoder_input()
MARKED[0, 0, 0] = 666


@pytest.mark.parametrize(
    ("verb", "message"),
    [("encode", NOT_ENCODED), ("step", NOT_STEPPED), ("decode", NOT_DECODED)],
)
def test_an_error_of_the_library_fails_its_request_alone(
    config: ModelConfig, pipeline: Pipeline, verb: str, message: str
) -> None:
    breaking = Breaking.load(config)
    breaking.verb = verb
    good = [submit("first", MIXED["pndm"]), submit("last", MIXED["plain"])]
    bad = submit("bad", replace(PARAMETERS, n=2, seed=666), MARKED)
    harness = Harness.over(breaking)
    answers = harness.answer_all(good[0], bad, good[1])
    assert answers["bad"] == Failed("bad", message)
    assert len(harness.said_of(Failed)) == 1
    for request in good:
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


@pytest.mark.parametrize("verb", ["encode", "step", "decode"])
def test_a_lost_device_ends_the_worker(config: ModelConfig, verb: str) -> None:
    breaking = Breaking.load(config)
    breaking.verb, breaking.error = verb, LOST
    harness = Harness.over(breaking)
    with pytest.raises(torch.AcceleratorError):
        harness.answer_all(submit("bad", replace(PARAMETERS, seed=666), MARKED))
    assert harness.answers == {}


class Stumbling(Pipeline):
    """The real pipeline, whose next call of one verb raises."""

    verb = ""
    error: Exception

    def conditions(self, conditions: Sequence[Condition]) -> list[tuple[Row, ...]]:
        self.stumble("encode")
        return super().conditions(conditions)

    def start(
        self,
        rows: Sequence[Row],
        parameters: Parameters,
        index: int,
        begins_from: Posterior | None = None,
    ) -> Sample:
        self.stumble("start")
        return super().start(rows, parameters, index, begins_from)

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        self.stumble("step")
        return super().step(samples, bucket)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        self.stumble("decode")
        return super().decode(samples, before_check)

    def stumble(self, verb: str) -> None:
        if verb == self.verb:
            self.verb = ""
            raise self.error


@pytest.mark.parametrize("verb", ["encode", "start", "step", "decode"])
@pytest.mark.parametrize("error", SHORTAGES, ids=["torch", "CUDA", "cuDNN"])
def test_memory_that_runs_out_once_fails_nobody(
    config: ModelConfig, pipeline: Pipeline, verb: str, error: Exception
) -> None:
    stumbling = Stumbling.load(config)
    stumbling.verb, stumbling.error = verb, error
    harness = Harness.over(stumbling)
    requests = [submit("first", MIXED["pndm"]), submit("last", MIXED["plain"])]
    harness.answer_all(*requests)
    assert len(harness.said_of(RanOut)) == 1
    for request in requests:
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


def test_a_step_that_does_not_fit_lowers_the_cap_for_the_next(config: ModelConfig) -> None:
    stumbling = Stumbling.load(config)
    stumbling.verb, stumbling.error = "step", SHORTAGES[0]
    harness = Harness.over(stumbling, buckets=(16,))
    harness.answer_all(submit("many", replace(PARAMETERS, n=8)))
    first, *later = harness.said_of(StepStats)
    assert first.rows == 16
    assert {stats.rows for stats in later} == {8}
    assert {stats.cap for stats in later} == {8}
    assert len(harness.pictures("many")) == 8
