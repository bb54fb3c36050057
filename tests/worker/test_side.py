"""Encodes and decodes beside the steps, in a thread of their own."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue

import pytest
import torch

from app.ipc.messages import Cancel, DecodeStats, Done, Dropped, Encoded, Failed, StepStats
from app.parameters import Condition, ModelConfig
from app.pipeline import Decoded, Pipeline, Row, Sample
from app.worker.loop import NOT_DECODED
from app.worker.side import Beside
from tests.support.workers import (
    MIXED,
    PARAMETERS,
    Harness,
    assert_same,
    beside,
    made_alone,
    submit,
)

LONG = replace(PARAMETERS, num_inference_steps=100)


class Gated(Pipeline):
    """The real pipeline, whose encodes or decodes wait in front of a gate."""

    verb = ""
    error: Exception | None = None

    def close(self, verb: str) -> None:
        self.verb, self.reached, self.gate = verb, threading.Event(), threading.Event()

    def conditions(self, conditions: Sequence[Condition]) -> list[tuple[Row, ...]]:
        self._pass("encode")
        return super().conditions(conditions)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        self._pass("decode")
        return super().decode(samples, before_check)

    def _pass(self, verb: str) -> None:
        if verb == self.verb:
            self.reached.set()
            assert self.gate.wait(60)
            if self.error:
                raise self.error


@pytest.fixture
def gated(config: ModelConfig) -> Gated:
    return Gated.load(config)


def steps(harness: Harness) -> int:
    return len(harness.said_of(StepStats))


def turn_without_waiting(harness: Harness) -> None:
    """A turn that does not wait for the gate where there is nothing else to do."""
    harness.inbox.put((0.0, lambda: None))
    harness.worker.turn()


def stepped_on(harness: Harness) -> None:
    """Steps are taken now, whatever else waits."""
    before = steps(harness)
    harness.turn_until(lambda: steps(harness) > before + 2)


def test_requests_come_out_as_if_alone(pipeline: Pipeline) -> None:
    requests = [submit(name, parameters) for name, parameters in MIXED.items()]
    harness = Harness.over(pipeline, side=beside)
    harness.answer_all(*requests)
    for request in requests:
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_steps_go_on_meanwhile(gated: Gated, pipeline: Pipeline, verb: str) -> None:
    harness = Harness.over(gated, side=beside)
    harness.tell(submit("long", LONG))
    harness.turn_until(lambda: steps(harness) > 0)
    gated.close(verb)
    harness.tell(submit("short"))
    while not gated.reached.is_set():
        harness.worker.turn()
    stepped_on(harness)
    assert harness.answers == {}
    gated.gate.set()
    harness.turn_until(lambda: "short" in harness.answers)
    assert "long" not in harness.answers
    assert_same(harness.pictures("short"), made_alone(pipeline, submit("short")))


@pytest.mark.parametrize(("verb", "kind"), [("encode", Encoded), ("decode", DecodeStats)])
def test_a_cancelled_request_is_gone_once_no_work_goes_on_for_it(
    gated: Gated, verb: str, kind: type[Encoded] | type[DecodeStats]
) -> None:
    gated.close(verb)
    harness = Harness.over(gated, side=beside)
    harness.tell(submit("gone"))
    while not gated.reached.is_set():
        turn_without_waiting(harness)
    harness.tell(Cancel("gone"), submit("next"))
    turn_without_waiting(harness)
    assert harness.said_of(Dropped) == []
    gated.gate.set()
    harness.turn_until(lambda: "next" in harness.answers)
    assert harness.said_of(Dropped) == [Dropped("gone")]
    assert set(harness.answers) == {"next"}


def test_an_error_there_fails_its_request_alone(gated: Gated) -> None:
    gated.close("decode")
    gated.gate.set()
    gated.error = RuntimeError("no such kernel")
    harness = Harness.over(gated, side=beside)
    assert harness.answer_all(submit("bad"))["bad"] == Failed("bad", NOT_DECODED)
    gated.error = None
    harness.tell(submit("good"))
    harness.turn_until(lambda: "good" in harness.answers)
    assert isinstance(harness.answers["good"], Done)


def test_a_lost_device_ends_the_worker_from_there_too(gated: Gated) -> None:
    gated.close("decode")
    gated.gate.set()
    gated.error = torch.AcceleratorError("CUDA error: an illegal memory access")
    harness = Harness.over(gated, side=beside)
    with pytest.raises(torch.AcceleratorError):
        harness.answer_all(submit("bad"))


def in_thread(number: int) -> tuple[int, str]:
    return number, threading.current_thread().name


def test_jobs_are_done_in_their_order_in_another_thread() -> None:
    posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
    side = Beside("cpu", posted.put)
    seen: list[object] = []
    for number in range(3):
        side.run(partial(in_thread, number), seen.append)
    for _ in range(3):
        posted.get(timeout=60)()
    assert seen == [(0, "side"), (1, "side"), (2, "side")]
