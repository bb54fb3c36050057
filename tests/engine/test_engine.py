"""The engine over a real worker process with a small real model."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.engine.engine import Engine
from app.engine.generation import (
    Event,
    Finished,
    Generation,
    PictureReady,
    Queued,
    Restarted,
    Result,
    Status,
    StepDone,
)
from app.engine.lifecycle import WorkerState
from app.errors import AttemptsExhausted, GenerationFailed, NotReady, WorkerUnavailable
from app.ipc.messages import Encoded, Measured, Ready, StepStats
from app.parameters import Condition, Parameters, Scheduler
from tests.support.engine import (
    Diary,
    kill_while_running,
    make,
    running_engine,
    signal_worker,
    start_message,
    submit,
)
from tests.support.requests import ENDLESS_REQUEST, MODEL, PREPROCESSING, SHORT_REQUEST

pytestmark = pytest.mark.anyio

Running = tuple[Engine, Diary]


def assert_same(one: Result, other: Result) -> None:
    """Equal but for rounding."""
    for mine, theirs in zip(one.pictures, other.pictures, strict=True):
        assert mine is not None
        assert theirs is not None
        assert np.abs(mine.astype(int) - theirs).max() <= 1


async def test_a_ready_engine_tells_its_model_its_input_and_its_row_cap(running: Running) -> None:
    engine, diary = running
    assert engine.accepting
    assert engine.max_rows == 24
    assert engine.model is not None
    assert engine.model.sizes == ((64, 64),)
    assert engine.preprocessing is not None
    assert engine.preprocessing.side == 32
    assert diary.ups[-1] is True


async def test_mixed_requests_share_steps_and_come_out_as_if_alone(running: Running) -> None:
    engine, diary = running
    requests = {
        "pndm": replace(SHORT_REQUEST, n=2, scheduler=Scheduler.PNDM, num_inference_steps=30),
        "plain": replace(SHORT_REQUEST, guidance_scale=1.0, num_inference_steps=20),
    }
    together = await asyncio.gather(
        *(make(engine, name, asked) for name, asked in requests.items())
    )
    assert max(stats.schedules for stats in diary.steps) == 2
    for (name, asked), shared in zip(requests.items(), together, strict=True):
        assert_same(await make(engine, f"{name} alone", asked), shared)


async def test_every_step_and_every_picture_is_told_as_it_happens(running: Running) -> None:
    engine, diary = running
    asked = replace(SHORT_REQUEST, n=3)
    generation = submit(engine, "watched", asked)
    events = [event async for event in generation.events()]
    assert isinstance(events[0], Queued)
    assert events[0].position == 0
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [step.done for step in steps] == [(done,) * 3 for done in range(1, 5)]
    assert {step.of for step in steps} == {4}
    pictures = [event for event in events if isinstance(event, PictureReady)]
    assert sorted(one.index for one in pictures) == [0, 1, 2]
    result = await generation.result()
    for one in pictures:
        assert one.picture is result.pictures[one.index]
    assert {stage.name for stage in result.stages} >= {"queue", "encode", "denoise", "decode"}
    assert result.steps == len(diary.steps) == 4


async def test_a_generation_knows_the_embeddings_that_its_pictures_were_made_from(
    running: Running,
) -> None:
    engine, _ = running
    guided = replace(SHORT_REQUEST, guidance_scale=3.0)
    first = submit(engine, "pictures", guided)
    made = await first.result()
    [embedding] = first.embeddings
    again = engine.submit("embeddings", guided, Condition.guided(embedding, 3.0))
    for ours, theirs in zip((await again.result()).pictures, made.pictures, strict=True):
        np.testing.assert_array_equal(ours, theirs)


async def test_a_short_request_leaves_its_batch_before_a_long_one(running: Running) -> None:
    engine, diary = running
    long = submit(engine, "long", ENDLESS_REQUEST)
    await diary.until(lambda: bool(diary.steps))
    await make(engine, "short")
    assert not long.ended
    long.cancel()


async def test_positions_are_told_to_those_who_wait(running: Running) -> None:
    engine, diary = running
    first = submit(engine, "first", ENDLESS_REQUEST)
    await diary.until(lambda: bool(diary.steps))
    second = submit(engine, "second", replace(ENDLESS_REQUEST, seed=9))
    third = submit(engine, "third", replace(ENDLESS_REQUEST, seed=10))
    seen: list[Event] = []
    told = asyncio.Event()

    async def watch(generation: Generation) -> None:
        async for event in generation.events():
            seen.append(event)
            told.set()

    watching = asyncio.create_task(watch(third))
    await told.wait()
    assert isinstance(seen[0], Queued)
    assert seen[0].position == 2
    assert seen[0].start_in > 0
    for one in (first, second, third):
        one.cancel()
    await watching


async def test_a_short_request_overtakes_long_ones_that_fill_every_step(running: Running) -> None:
    engine, diary = running
    long = [submit(engine, f"long {seed}", replace(ENDLESS_REQUEST, seed=seed)) for seed in (1, 2)]
    await diary.until(lambda: bool(diary.steps) and diary.steps[-1].waiting_rows > 0)
    short = submit(engine, "short")
    events = [event async for event in short.events()]
    assert isinstance(events[-1], Finished)
    assert isinstance(events[-2], PictureReady)
    assert not any(one.ended for one in long)
    for one in long:
        one.cancel()


async def test_a_cancelled_request_frees_the_worker(running: Running) -> None:
    engine, diary = running
    gone = submit(engine, "gone", ENDLESS_REQUEST)
    await diary.until(lambda: bool(diary.steps))
    gone.cancel()
    assert engine.pending == 0
    await make(engine, "next")
    assert [stats.rows for stats in diary.steps[-4:]] == [2, 2, 2, 2]
    assert len(diary.steps) < 100
    assert diary.counted["cancelled"] == 8


async def test_a_step_that_ends_when_nobody_waits_any_more_leaves_no_rows(
    running: Running,
) -> None:
    engine, diary = running
    gone = submit(engine, "gone", ENDLESS_REQUEST)
    await diary.until(lambda: bool(diary.steps))
    gone.cancel()
    await diary.until(lambda: bool(diary.wasted))
    assert engine.pending == 0
    assert diary.rows == 0
    assert await make(engine, "next")
    assert max(diary.wasted) <= 2


async def test_what_the_model_cannot_do_fails_that_request_alone(running: Running) -> None:
    engine, diary = running
    broken = np.full((3, 32, 32), np.nan, np.float32)
    bad, good = await asyncio.gather(
        make(engine, "bad", SHORT_REQUEST, broken),
        make(engine, "good"),
        return_exceptions=True,
    )
    assert isinstance(bad, GenerationFailed)
    assert isinstance(good, Result)
    assert diary.counted["failed"] == 1


async def test_an_id_is_taken_only_once(running: Running) -> None:
    engine, _ = running
    first = submit(engine, "same")
    with pytest.raises(ValueError, match="already in the queue"):
        submit(engine, "same")
    await first.result()


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
        diary.counted["encode"] = 0  # the next to be encoded may have been begun: so all are
        await diary.until(lambda: diary.counted["encode"] == 3)
        await kill_while_running(engine, diary, "runs")
    assert running_one.attempts == 2
    assert patient.attempts == 0
    assert patient.status is Status.QUEUED
    for generation in (running_one, second, patient):
        generation.cancel()


async def test_who_has_begun_and_waits_again_for_lack_of_memory_is_run_again_too(
    tiny_checkpoint: Path,
) -> None:
    """Not in the steps when the worker ends: no attempt is used up, but its steps are lost."""
    engine = ReadyEngine(start_message(tiny_checkpoint), Diary())
    ready = Ready(MODEL, PREPROCESSING, (2, 4), Measured({2: 0.1, 4: 0.2}, 4), 0.5, 0.5, 2)
    engine.receive(ready)
    asked = replace(SHORT_REQUEST, n=1)
    first, second = (submit(engine, name, asked) for name in ("first", "second"))
    tell_encoded(engine, "first", "second")
    for cap in (4, 2):
        tell_step(engine, asked, cap, "first", "second")
    engine.worker_lost()
    assert (first.attempts, second.attempts) == (1, 0)
    assert first.status is second.status is Status.QUEUED
    engine.receive(ready)
    tell_encoded(engine, "first", "second")
    tell_step(engine, asked, 4, "first", "second")
    second.cancel()
    events = [event async for event in second.events()]
    steps = [event.done for event in events if isinstance(event, StepDone)]
    assert steps == [(1,), (2,), (1,)]
    assert events.count(Restarted()) == 1


class ReadyEngine(Engine):
    """An engine that takes its worker, which the test plays, to be ready."""

    @property
    def state(self) -> WorkerState:
        return WorkerState("ready", "ready")

    @property
    def accepting(self) -> bool:
        return True


def tell_encoded(engine: Engine, *names: str) -> None:
    for name in names:
        engine.receive(Encoded(name, 0.1, 0.0, ()))


def tell_step(engine: Engine, asked: Parameters, cap: int, *names: str) -> None:
    rows = asked.rows * len(names)
    members = tuple((name, 0) for name in names)
    engine.receive(StepStats(0.1, rows, rows, asked.size, members, 1, 0, cap))


async def test_the_finish_of_a_request_is_predicted(running: Running) -> None:
    engine, _ = running
    asked = replace(ENDLESS_REQUEST, seed=9)
    alone = engine.predict(asked)
    assert alone.finished > 0
    before = submit(engine, "before it", ENDLESS_REQUEST)
    behind = engine.predict(asked)
    assert behind.finished > alone.finished
    assert set(engine.finishes()) == {"before it"}
    before.cancel()


async def test_before_the_start_nothing_is_taken(tiny_checkpoint: Path) -> None:
    engine = Engine(start_message(tiny_checkpoint), Diary())
    with pytest.raises(NotReady, match="not started"):
        submit(engine, "early")


async def test_a_stop_tells_those_who_wait(tiny_checkpoint: Path) -> None:
    async with running_engine(tiny_checkpoint) as (engine, diary):
        await diary.until(lambda: engine.state.phase == "ready")
        waiting = submit(engine, "waiting", ENDLESS_REQUEST)
        await diary.until(lambda: bool(diary.steps))
        await engine.stop()
        with pytest.raises(WorkerUnavailable, match="stopped"):
            await waiting.result()
