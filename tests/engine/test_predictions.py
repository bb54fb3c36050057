"""Predictions that are kept: in seconds from now, and made anew only now and then."""

import math

import pytest

from app.engine.generation import Generation
from app.engine.mirror import Mirror
from app.engine.predictions import KEPT, Predictions
from app.ipc.messages import Encoded, Measured, Ready, StepStats
from app.parameters import Fit, Parameters, Scheduler
from app.scheduling.forecast import Forecast
from tests.support.generations import NoOwner
from tests.support.requests import MODEL, PREPROCESSING, condition_for

pytestmark = pytest.mark.anyio

PARAMETERS = Parameters(1, 3.0, 4, Scheduler.DDIM, 0, 64, 64, Fit.SQUASH)
READY = Ready(MODEL, PREPROCESSING, (2, 4), Measured({2: 0.1, 4: 0.2}, 4), 0.5, 0.5, 2)

LAST = math.inf
"""Due after everybody else."""


class SlowMirror(Mirror):
    """A mirror whose forecasts take a second each, by the clock that it has, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.made = 0

    def _run_forward(self) -> Forecast:
        self.now += 1.0
        self.made += 1
        return super()._run_forward()


def generation(name: str) -> Generation:
    return Generation(name, PARAMETERS, condition_for(PARAMETERS), NoOwner())


def busy(requests: int = 40) -> tuple[SlowMirror, Predictions]:
    """A worker that has been sent more requests than it can have in a step."""
    mirror = SlowMirror()
    predictions = Predictions(mirror, lambda: mirror.now)
    for number in range(requests):
        mirror.add(generation(f"{number}"))
    mirror.worker_ready(READY)
    for one in mirror.due():
        mirror.submit(one)
    return mirror, predictions


def step(mirror: Mirror, name: str) -> None:
    mirror.stepped(StepStats(0.1, 2, 2, PARAMETERS.size, ((name, 0),), 1, 0, cap=4))


async def test_what_passes_is_taken_off_and_nothing_is_made_anew() -> None:
    mirror, predictions = busy()
    before = predictions.finishes(running=True)
    further = predictions.further(PARAMETERS, LAST, running=True)
    mirror.now += 2.0
    mirror.encoded(Encoded("0", 0.5, 0.0, ()))
    step(mirror, "0")
    after = predictions.finishes(running=True)
    assert mirror.made == 1
    passed = 1.0 + 2.0  # with the second that it took to make
    for name, seconds in before.items():
        assert after[name] == pytest.approx(max(0.0, seconds - passed)), name
    later = predictions.further(PARAMETERS, LAST, running=True)
    assert later.finished == pytest.approx(further.finished - 2.0)
    assert predictions.of("39", running=True).finished == pytest.approx(after["39"])


async def test_any_number_of_equal_requests_costs_one_forecast() -> None:
    mirror, predictions = busy()
    for seed in range(100):
        mirror.now += 0.01
        step(mirror, "0")
        asked = Parameters(1, 3.0, 4, Scheduler.DDIM, seed, 64, 64, Fit.SQUASH)
        predictions.further(asked, LAST, running=True)
        predictions.finishes(running=True)
    assert mirror.made == 1


async def test_after_a_while_it_is_made_anew_if_there_is_news() -> None:
    mirror, predictions = busy()
    predictions.finishes(running=True)
    mirror.now += KEPT + 1.0
    predictions.finishes(running=True)
    assert mirror.made == 1
    step(mirror, "0")
    predictions.finishes(running=True)
    assert mirror.made == 2


async def test_a_request_that_is_accepted_is_known_at_once() -> None:
    mirror, predictions = busy()
    first = predictions.further(PARAMETERS, LAST, running=True)
    mirror.add(generation("new"))
    assert mirror.made == 1
    assert predictions.of("new", running=True).finished <= first.finished
    second = predictions.further(PARAMETERS, LAST, running=True)
    assert second.finished > predictions.of("new", running=True).finished
    assert mirror.made == 1
    assert mirror.forecast().further(PARAMETERS, LAST).finished == pytest.approx(
        second.finished + 1.0
    )


@pytest.mark.parametrize("idle_seconds", [0.5, 600.0])
async def test_with_nothing_to_wait_for_no_time_is_taken_off(idle_seconds: float) -> None:
    mirror, predictions = busy(0)
    alone = predictions.further(PARAMETERS, LAST, running=True)
    mirror.now += idle_seconds
    assert predictions.further(PARAMETERS, LAST, running=True) == alone
    mirror.add(generation("first"))
    assert predictions.finishes(running=True) == {"first": pytest.approx(alone.finished)}


async def test_without_a_worker_time_brings_nothing_nearer() -> None:
    mirror, predictions = busy()
    mirror.worker_lost()
    before = predictions.finishes(running=False)
    mirror.now += 100.0
    assert predictions.finishes(running=False) == before
    mirror.worker_ready(READY)
    assert predictions.finishes(running=True) == before
    assert mirror.made == 2


async def test_an_id_that_comes_again_is_a_request_of_its_own() -> None:
    mirror, predictions = busy()
    predictions.finishes(running=True)
    for name in ("0", "39"):
        one = mirror.get(name)
        assert one is not None
        mirror.cancel(one)
        mirror.dropped(name)
        mirror.add(generation(name))
        finishes = predictions.finishes(running=True)
        assert finishes[name] == max(finishes.values())


async def test_a_forecast_that_nobody_asks_for_does_not_grow() -> None:
    mirror, predictions = busy(4)
    predictions.finishes(running=True)
    for number in range(100):
        one = generation(f"more {number}")
        mirror.add(one)
        mirror.remove(one)
    assert len(predictions.finishes(running=True)) < 20
