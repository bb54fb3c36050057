"""The application as it is put together."""

import asyncio

from app.api.application import create_app, start_message
from app.parameters import ModelConfig
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine


class Recorded:
    """A start and a stop that are written down."""

    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__()
        self.name = name
        self.events = events

    async def start(self) -> None:
        self.events.append(f"{self.name} started")

    async def stop(self) -> None:
        self.events.append(f"{self.name} stopped")


class RecordedEngine(Recorded, FakeEngine):
    """An engine of that kind."""


class RecordedDecoders(Recorded, FakeDecoders):
    """Decoders of that kind."""


def test_the_decoders_are_there_before_the_engine_and_after_it() -> None:
    events: list[str] = []
    app = create_app(
        Settings(), RecordedEngine("engine", events), RecordedDecoders("decoders", events)
    )

    async def run() -> None:
        async with app.router.lifespan_context(app):
            events.append("served")

    asyncio.run(run())
    assert events == [
        "decoders started", "engine started", "served", "engine stopped", "decoders stopped",
    ]  # fmt: skip


def test_the_worker_is_told_the_settings_that_concern_it() -> None:
    settings = Settings(
        model="someone/something",
        revision="",
        device="cuda:1",
        safety_checker="off",
        sizes=((512, 512),),
        max_rows="auto",
        fixed_bucket=True,
        log_format="json",
    )
    start = start_message(settings)
    assert start.config == ModelConfig(
        model="someone/something", device="cuda:1", safety_checker=False, sizes=((512, 512),)
    )
    assert (start.max_rows, start.fixed_bucket, start.log_format) == (None, True, "json")
    assert start_message(Settings(max_rows=16)).max_rows == 16


def test_the_numbers_that_are_asked_for_at_every_scrape_come_from_engine_and_decoders() -> None:
    engine = FakeEngine()
    app = create_app(Settings(), engine, FakeDecoders())
    registry = app.state.service.metrics.registry
    wait = "variations_predicted_wait_seconds"
    assert registry.get_sample_value(wait) == engine.predicted.started
    assert registry.get_sample_value("variations_decoder_queue_requests") == 0
