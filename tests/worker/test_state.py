"""A request's numbers and times inside the worker."""

from dataclasses import replace

import pytest

from app.ipc.messages import Stage
from app.pipeline import Pipeline, Sample
from app.scheduling.batcher import Batch, Ticket
from app.worker.state import PendingStep, RequestState
from tests.support.requests import condition_for
from tests.support.workers import PARAMETERS


@pytest.fixture
def state() -> RequestState:
    return RequestState("mine", replace(PARAMETERS, n=2), waiting_since=1.0)


@pytest.fixture
def samples(pipeline: Pipeline) -> list[Sample]:
    rows = pipeline.condition(condition_for(PARAMETERS))
    return [pipeline.start(rows, PARAMETERS, index) for index in range(2)]


def test_samples_of_other_rows_or_calls_than_its_parameters_mean_may_not_join(
    samples: list[Sample],
) -> None:
    for change in ({"guidance_scale": 1.0}, {"num_inference_steps": 9}):
        other = RequestState("other", replace(PARAMETERS, n=2, **change), 0.0)
        with pytest.raises(RuntimeError, match=r"\(\(4, 2\),\), where its parameters mean"):
            other.joined(samples)
        assert other.samples == {}


def test_it_waits_until_its_first_step_and_is_denoised_until_its_last(state: RequestState) -> None:
    state.stepped(3.0, 4.0)
    state.stepped(6.0, 7.0)
    done = state.done()
    assert (done.request_id, done.steps) == ("mine", 2)
    assert done.stages == (Stage("queue", 1.0, 3.0), Stage("denoise", 3.0, 7.0))


def test_a_pending_step_is_done_when_all_its_parts_are() -> None:
    waited = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait(self) -> None:
            waited.append(self.name)

    ticket = Ticket("mine", 0, PARAMETERS.size, ((4, 2),))
    batch = Batch((ticket,), PARAMETERS.size, 2, 2, 0)
    PendingStep(batch, (Part("first"), Part("second")), (), 0.0).wait()  # type: ignore[arg-type]
    assert waited == ["first", "second"]
