"""The life of the worker: what ends it, and what follows."""

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from app.engine import lifecycle as module
from app.engine.engine import Engine
from app.engine.lifecycle import Lifecycle
from app.engine.watchdog import Timeouts
from app.errors import NotReady
from app.ipc.channel import Channel
from app.ipc.messages import FromWorker, Ready
from tests.support.engine import (
    LONG,
    Diary,
    make,
    process_is_gone,
    running_engine,
    signal_worker,
    start_message,
    submit,
)
from tests.support.requests import ENDLESS_REQUEST, SHORT_REQUEST

pytestmark = pytest.mark.anyio

Running = tuple[Engine, Diary]


async def test_ctrl_c_and_sigterm_do_not_end_the_worker(running: Running) -> None:
    engine, _ = running
    signal_worker(engine, signal.SIGINT)
    pid = signal_worker(engine, signal.SIGTERM)
    assert await make(engine, "after signals")
    assert engine.worker_pid == pid


async def test_a_worker_that_makes_no_progress_with_its_work_is_killed(running: Running) -> None:
    engine, diary = running
    frozen = submit(engine, "frozen", replace(SHORT_REQUEST, n=8))
    signal_worker(engine, signal.SIGSTOP)
    assert len((await frozen.result()).pictures) == 8
    assert diary.causes == ["timeout"]


@pytest.mark.slow  # two starts, and the time limit between
async def test_a_worker_that_hangs_over_what_nobody_waits_for_is_killed_too(
    running: Running,
) -> None:
    engine, diary = running
    left = submit(engine, "left alone", ENDLESS_REQUEST)
    await diary.until(lambda: bool(diary.steps))
    signal_worker(engine, signal.SIGSTOP)
    left.cancel()
    await diary.until(lambda: diary.causes == ["timeout"])
    assert await make(engine, "in the next")


class IdleHost:
    """Has nothing to do for its worker, and tells when that is ready."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()

    def receive(self, message: FromWorker) -> None:
        if isinstance(message, Ready):
            self.ready.set()

    def worker_lost(self) -> None: ...
    def fail_all(self, message: str) -> None: ...
    def turn_seconds(self) -> float | None:
        return None


@pytest.mark.slow  # nothing happens, for longer than the limit
async def test_a_worker_without_work_may_say_nothing_for_ever(
    tiny_checkpoint: Path, one_thread_a_worker: None
) -> None:
    host, diary = IdleHost(), Diary()
    timeouts = Timeouts(start=LONG, step=1.0)
    life = Lifecycle(start_message(tiny_checkpoint), timeouts, host, diary)
    life.start()
    await asyncio.wait_for(host.ready.wait(), LONG)
    pid = life.worker_pid
    assert pid is not None
    await asyncio.sleep(3.5)  # more than the limit and two looks of the watchdog
    assert not process_is_gone(pid)
    assert diary.causes == []
    await life.stop()


async def test_what_is_missing_for_a_start_may_be_there_for_the_next(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, diary = running
    patient = submit(engine, "patient", replace(SHORT_REQUEST, n=8))
    await diary.until(lambda: bool(diary.steps))
    unhindered = Channel.open

    def without_a_thread(channel: Channel[object, object]) -> None:
        monkeypatch.setattr(Channel, "open", unhindered)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Channel, "open", without_a_thread)
    signal_worker(engine, signal.SIGKILL)
    assert len((await patient.result()).pictures) == 8
    assert diary.causes == ["signal", "launch"]


async def test_a_checkpoint_that_cannot_be_served_is_not_tried_again(tmp_path: Path) -> None:
    """And signals do not end a worker before it can ignore them, either."""
    async with running_engine(tmp_path / "nowhere") as (engine, diary):
        await asyncio.sleep(0)
        signal_worker(engine, signal.SIGTERM)
        first = signal_worker(engine, signal.SIGINT)
        await diary.until(lambda: engine.state.phase == "failed")
        assert "nowhere" in engine.state.reason
        await asyncio.wait_for(engine.wait(), LONG)
        assert engine.worker_pid == first
        assert engine.state.phase == "failed"
        assert engine.ready_in() is None
        with pytest.raises(NotReady, match="nowhere"):
            submit(engine, "hopeful")


async def test_a_worker_that_ends_while_it_starts_is_started_again(
    tiny_checkpoint: Path, one_thread_a_worker: None
) -> None:
    async with running_engine(tiny_checkpoint) as (engine, diary):
        await asyncio.sleep(0)
        assert not engine.accepting
        signal_worker(engine, signal.SIGKILL)
        await diary.until(lambda: bool(diary.causes))
        assert "SIGKILL" in engine.state.reason
        assert not engine.accepting
        await diary.until(lambda: engine.state.phase == "ready")


async def test_a_worker_that_does_not_end_is_killed(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXIT_SECONDS", 0.1)
    async with running_engine(tiny_checkpoint) as (engine, _):
        await asyncio.sleep(0)
        pid = signal_worker(engine, signal.SIGSTOP)
        await engine.stop()
        assert process_is_gone(pid)
        assert engine.state.phase == "stopped"
