"""Readiness: requests are taken, or refused with the reason."""

import pytest

from app.api.application import create_app
from app.api.state import Service
from app.engine.lifecycle import WorkerState
from app.errors import Draining, NotReady
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.requests import MODEL, PREPROCESSING


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def service(engine: FakeEngine) -> Service:
    service: Service = create_app(Settings(), engine, FakeDecoders()).state.service
    return service


def test_a_ready_service_has_a_model_and_its_preprocessing(service: Service) -> None:
    assert service.model() == (MODEL, PREPROCESSING)


def test_a_service_that_is_not_ready_says_why_and_when_to_come_back(
    service: Service, engine: FakeEngine
) -> None:
    engine.worker = WorkerState("starting", "downloading the checkpoint")
    with pytest.raises(NotReady, match="downloading the checkpoint") as refusal:
        service.model()
    assert refusal.value.retry_after == engine.ready_in()


def test_a_service_whose_worker_was_never_there_has_no_model(
    service: Service, engine: FakeEngine
) -> None:
    engine.model = engine.preprocessing = None
    with pytest.raises(NotReady):
        service.model()
    assert service.predicted_wait() == 0


def test_a_draining_service_refuses_though_its_worker_is_ready(service: Service) -> None:
    service.draining = True
    with pytest.raises(Draining, match="another instance"):
        service.model()


def test_the_predicted_wait_is_that_of_one_picture_and_0_where_none_is_accepted(
    service: Service, engine: FakeEngine
) -> None:
    engine.predicted = Span(2.5, 4.0)
    assert service.predicted_wait() == 2.5
    decoders = service.decoders
    assert isinstance(decoders, FakeDecoders)
    decoders.busy_for = 7.0
    assert service.predicted_wait() == 7.0
    engine.worker = WorkerState("failed", "no such checkpoint")
    assert service.predicted_wait() == 0
