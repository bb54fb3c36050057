"""The handle of a request: its status, its events, its result."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from app.engine.generation import (
    Event,
    Failed,
    Finished,
    Generation,
    PictureReady,
    PreviewReady,
    Queued,
    Restarted,
    Status,
    StepDone,
)
from app.errors import GenerationFailed, WorkerUnavailable
from app.parameters import Scheduler
from tests.support.requests import SHORT_REQUEST, condition_for

pytestmark = pytest.mark.anyio

TWO = replace(SHORT_REQUEST, n=2, scheduler=Scheduler.HEUN, num_inference_steps=3)
PICTURE = np.zeros((64, 64, 3), np.uint8)


class Owner:
    """Remembers what a generation's reader wanted."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def cancelled(self, generation: Generation) -> None:
        self.heard.append("cancelled")

    def watched(self, generation: Generation) -> None:
        self.heard.append("watched")

    def finishes_in(self, generation: Generation) -> float:
        return 7.5


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def generation(owner: Owner) -> Generation:
    return Generation("a", TWO, condition_for(TWO), owner)


def make(generation: Generation) -> None:
    """All that a worker does for it."""
    for _ in range(TWO.calls):
        generation.step([0, 1])
    generation.keep(1, None)
    generation.keep(0, PICTURE)
    generation.finish((), TWO.calls)


async def all_events(generation: Generation) -> list[Event]:
    return [event async for event in generation.events()]


async def test_its_events_tell_the_whole_way_to_the_pictures(generation: Generation) -> None:
    generation.queue(3, 1.5)
    reading = asyncio.create_task(all_events(generation))
    await asyncio.sleep(0)
    make(generation)
    queued, *steps, flagged, picture, end = await reading
    assert queued == Queued(3, 1.5)
    assert steps == [StepDone((done, done), 5) for done in range(1, 6)]
    assert flagged == PictureReady(1, None)
    assert picture == PictureReady(0, PICTURE)
    assert isinstance(end, Finished)
    assert end.result is await generation.result()
    assert end.result.pictures == (PICTURE, None)
    assert generation.flagged == 1


async def test_who_begins_to_read_late_misses_nothing(generation: Generation) -> None:
    make(generation)
    assert await all_events(generation) == await all_events(generation)
    assert generation.watchers == 0


async def test_the_owner_hears_of_whoever_reads(generation: Generation, owner: Owner) -> None:
    reading = asyncio.create_task(all_events(generation))
    await asyncio.sleep(0)
    assert (owner.heard, generation.watchers) == (["watched"], 1)
    make(generation)
    await reading


async def test_its_end_is_predicted_until_it_has_ended(generation: Generation) -> None:
    assert generation.finishes_in == 7.5
    make(generation)
    assert generation.finishes_in == 0.0


async def test_the_same_position_is_told_once(generation: Generation) -> None:
    generation.queue(2, 9.0)
    generation.queue(2, 8.0)
    generation.queue(1, 7.0)
    generation.cancel()
    assert await all_events(generation) == [Queued(2, 9.0), Queued(1, 7.0)]


async def test_its_status_follows_what_happens(generation: Generation) -> None:
    statuses = [generation.status]
    generation.step([0, 1])
    statuses.append(generation.status)
    generation.restart()
    statuses.append(generation.status)
    make(generation)
    statuses.append(generation.status)
    assert statuses == [Status.QUEUED, Status.RUNNING, Status.QUEUED, Status.DONE]


async def test_run_again_its_steps_begin_anew_and_its_pictures_are_told_once(
    generation: Generation,
) -> None:
    generation.step([0])
    generation.keep(0, PICTURE)
    generation.restart()
    make(generation)
    events = await all_events(generation)
    assert events[:4] == [
        StepDone((1, 0), 5),
        PictureReady(0, PICTURE),
        Restarted(),
        StepDone((1, 1), 5),
    ]
    assert [event for event in events if isinstance(event, PictureReady)] == [
        PictureReady(0, PICTURE),
        PictureReady(1, None),
    ]


async def test_only_the_last_preview_of_a_picture_that_is_not_there_is_told(
    generation: Generation,
) -> None:
    first, second, other = (np.full((4, 4, 3), level, np.uint8) for level in (1, 2, 3))
    reading = generation.events()
    generation.preview(0, first)
    assert await anext(reading) == PreviewReady(0, first)
    generation.preview(1, other)
    generation.preview(0, first)
    generation.preview(0, second)
    generation.keep(1, PICTURE)
    generation.preview(1, other)
    generation.cancel()
    told = [event async for event in reading]
    assert told == [PreviewReady(0, second), PictureReady(1, PICTURE)]


async def test_a_failure_is_raised_and_told(generation: Generation) -> None:
    error = GenerationFailed("it broke")
    generation.fail(error)
    with pytest.raises(GenerationFailed, match="it broke"):
        await generation.result()
    assert await all_events(generation) == [Failed(error)]
    assert generation.status is Status.FAILED


async def test_cancelling_ends_it_and_tells_its_owner_once(
    generation: Generation, owner: Owner
) -> None:
    generation.cancel()
    generation.cancel()
    assert owner.heard == ["cancelled"]
    assert generation.status is Status.CANCELLED
    with pytest.raises(asyncio.CancelledError):
        await generation.result()


async def test_an_answer_after_its_cancellation_changes_nothing(generation: Generation) -> None:
    generation.step([0])
    generation.cancel()
    make(generation)
    generation.restart()
    generation.queue(1, 1.0)
    generation.fail(GenerationFailed("late"))
    assert generation.status is Status.CANCELLED
    assert await all_events(generation) == [StepDone((1, 0), 5)]


async def test_the_first_answer_counts(generation: Generation, owner: Owner) -> None:
    generation.fail(WorkerUnavailable("first"))
    make(generation)
    generation.cancel()
    with pytest.raises(WorkerUnavailable, match="first"):
        await generation.result()
    assert owner.heard == []


async def test_a_reader_that_stops_waiting_does_not_cancel_it(generation: Generation) -> None:
    waiting = asyncio.create_task(generation.result())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    make(generation)
    assert (await generation.result()).steps == TWO.calls
