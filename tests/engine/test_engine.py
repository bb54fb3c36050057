"""The supervisor over a real worker process with a small real model."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from app.engine import engine as module
from app.engine.engine import Supervisor
from app.engine.process import Cause
from app.engine.watchdog import Patience
from app.errors import GenerationFailed, NotReady, Quarantined, WorkerKilled
from app.ipc.channel import Channel
from app.ipc.messages import DeviceUse, Done, LoadFailed, Start, Stats
from app.parameters import Fit, ModelInfo, Parameters, Scheduler
from app.pictures import Picture

pytestmark = pytest.mark.anyio

LONG = 180.0
"""Seconds after which a test gives up on a worker."""

SHORT_REQUEST = Parameters(1, 3.0, 4, Scheduler.DDIM, 7, 64, 64, Fit.SQUASH)
ENDLESS_REQUEST = replace(SHORT_REQUEST, n=8, num_inference_steps=100, scheduler=Scheduler.HEUN)


@dataclass
class Diary:
    """Metrics that are remembered, and wake whoever waits for the next entry."""

    steps: list[Stats] = field(default_factory=list)
    started_after: list[float] = field(default_factory=list)
    models: list[ModelInfo] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    queued: list[int] = field(default_factory=list)
    ups: list[bool] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    wasted: list[int] = field(default_factory=list)
    rows: int = 0
    _entry: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, stats: Stats) -> None:
        self.steps.append(stats)
        self.rows = stats.rows
        self._entry.set()

    def started(self, seconds: float) -> None:
        self.started_after.append(seconds)

    def pictures(self, parameters: Parameters, flagged: int) -> None:
        self._count("ok", parameters.n - flagged)
        self._count("flagged", flagged)

    def failed(self, parameters: Parameters) -> None:
        self._count("failed", parameters.n)

    def cancelled(self, parameters: Parameters) -> None:
        self._count("cancelled", parameters.n)

    def device(self, use: DeviceUse) -> None:
        raise AssertionError(f"a CPU reports none, but: {use}")

    def ready(self, model: ModelInfo, cap: int) -> None:
        self.models.append(model)

    def stalled(self, stage: str, seconds: float) -> None:
        self._count(stage, 1)

    def ran_out(self, stage: str) -> None:
        raise AssertionError(f"nothing here takes memory, but: {stage}")

    def idle(self) -> None:
        self.rows = 0

    def wasted_step(self, number: int) -> None:
        self.wasted.append(number)
        self._entry.set()

    def restarted(self, cause: Cause) -> None:
        self.causes.append(cause)
        self._entry.set()

    def replayed(self, requests: int) -> None:
        self._count("replayed", requests)

    def suspected(self, requests: int) -> None:
        self._count("suspected", requests)

    def convicted(self) -> None:
        self._count("convicted", 1)

    def worker_up(self, up: bool) -> None:
        self.ups.append(up)
        self._entry.set()

    def queue(self, requests: int) -> None:
        self.queued.append(requests)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not happened():
                self._entry.clear()
                await self._entry.wait()

    def _count(self, outcome: str, pictures: int) -> None:
        self.counted[outcome] = self.counted.get(outcome, 0) + pictures


def start_message(model: str | Path) -> Start:
    return Start(
        model=str(model),
        revision=None,
        device="cpu",
        dtype="float32",
        attention_slicing="off",
        vae_slicing=False,
        safety_checker=True,
        sizes=(),
        max_rows=24,
        fixed_bucket=False,
    )


@asynccontextmanager
async def supervised(model: str | Path) -> AsyncIterator[tuple[Supervisor, Diary]]:
    diary = Diary()
    supervisor = Supervisor(start_message(model), diary, Patience(starting=LONG, working=5.0))
    await supervisor.start()
    try:
        yield supervisor, diary
    finally:
        await supervisor.stop()


@pytest.fixture(scope="module", autouse=True)
def one_thread_a_worker() -> Iterator[None]:
    """Tensors this small only suffer from more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
async def running(tiny_checkpoint: Path) -> AsyncIterator[tuple[Supervisor, Diary]]:
    async with supervised(tiny_checkpoint) as (supervisor, diary):
        await diary.until(lambda: supervisor.state.phase == "ready")
        yield supervisor, diary


def a_picture() -> Picture:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


async def run(
    supervisor: Supervisor,
    name: str,
    parameters: Parameters = SHORT_REQUEST,
    picture: Picture | None = None,
    fingerprint: bytes = b"",
) -> Done:
    async def read() -> Picture:
        return a_picture() if picture is None else picture

    return await supervisor.run(name, read, parameters, fingerprint or name.encode())


def assert_same(one: Done, other: Done) -> None:
    """Equal but for rounding."""
    for mine, theirs in zip(one.pictures, other.pictures, strict=True):
        assert mine is not None
        assert theirs is not None
        assert np.abs(mine.astype(int) - theirs).max() <= 1


def process_is_gone(pid: int) -> bool:
    """Ended, though perhaps not yet reaped by whoever inherited it."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    status = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return not status or status.startswith("Z")


def wait_until_gone(pid: int) -> None:
    deadline = monotonic() + LONG
    while not process_is_gone(pid):
        assert monotonic() < deadline, f"process {pid} is still there"
        sleep(0.05)


async def test_a_ready_worker_tells_its_model_and_cap(running: tuple[Supervisor, Diary]) -> None:
    supervisor, diary = running
    assert supervisor.state.phase == "ready"
    assert supervisor.max_rows == 24
    assert supervisor.model is not None
    assert supervisor.model.sizes == ((64, 64),)
    assert diary.ups[-1] is True


async def test_mixed_requests_share_steps_and_come_out_as_if_alone(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    requests = {
        "pndm": replace(SHORT_REQUEST, n=2, scheduler=Scheduler.PNDM, num_inference_steps=30),
        "plain": replace(SHORT_REQUEST, guidance_scale=1.0, num_inference_steps=20),
    }
    diary.steps.clear()
    together = await asyncio.gather(
        *(run(supervisor, name, asked) for name, asked in requests.items())
    )
    assert max(stats.schedules for stats in diary.steps) == 2
    for (name, asked), shared in zip(requests.items(), together, strict=True):
        assert_same(await run(supervisor, f"{name} alone", asked), shared)


async def test_a_cancelled_request_frees_the_worker(running: tuple[Supervisor, Diary]) -> None:
    supervisor, diary = running
    diary.steps.clear()
    cancelled = diary.counted.get("cancelled", 0)
    task = asyncio.create_task(run(supervisor, "gone", ENDLESS_REQUEST))
    await diary.until(lambda: bool(diary.steps))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert supervisor.pending == 0
    await run(supervisor, "next", SHORT_REQUEST)
    assert [stats.rows for stats in diary.steps[-4:]] == [2, 2, 2, 2]
    assert len(diary.steps) < 100
    assert diary.counted["cancelled"] == cancelled + 8


async def test_the_pixels_are_let_go_once_they_are_encoded(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    diary.steps.clear()
    task = asyncio.create_task(run(supervisor, "long", ENDLESS_REQUEST))
    await diary.until(lambda: bool(diary.steps))
    [job] = supervisor._backlog
    assert job.submit().source.dtype == np.float32
    assert job.submit().source.shape == (24,)
    task.cancel()


async def test_what_the_model_cannot_do_fails_that_request_alone(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    failed = diary.counted.get("failed", 0)
    nobody = np.zeros((0, 0, 3), np.uint8)
    bad, good = await asyncio.gather(
        run(supervisor, "bad", SHORT_REQUEST, nobody),
        run(supervisor, "good", SHORT_REQUEST),
        return_exceptions=True,
    )
    assert isinstance(bad, GenerationFailed)
    assert isinstance(good, Done)
    assert diary.counted["failed"] == failed + 1


async def test_an_identifier_is_taken_only_once(running: tuple[Supervisor, Diary]) -> None:
    supervisor, _ = running
    first = asyncio.create_task(run(supervisor, "same", SHORT_REQUEST))
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="already waiting"):
        await run(supervisor, "same", SHORT_REQUEST)
    await first


async def test_ctrl_c_and_sigterm_do_not_concern_the_worker(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, _ = running
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGINT)
    os.kill(supervisor.worker_pid, signal.SIGTERM)
    assert await run(supervisor, "after signals", SHORT_REQUEST)


async def test_when_the_worker_dies_its_requests_are_run_again_in_the_next(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    asked = replace(SHORT_REQUEST, n=2, num_inference_steps=60)
    before = await run(supervisor, "before", asked)
    diary.steps.clear()
    waiting = [asyncio.create_task(run(supervisor, f"waiting {i}", asked)) for i in range(3)]
    await diary.until(lambda: bool(diary.steps))
    dead = supervisor.worker_pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    await diary.until(lambda: diary.ups[-1] is False)
    assert supervisor.accepting
    late = asyncio.create_task(run(supervisor, "late", asked))
    for answer in [*await asyncio.gather(*waiting), await late]:
        assert_same(answer, before)
    assert supervisor.worker_pid != dead
    assert diary.causes == ["signal"]
    assert diary.counted["replayed"] == 3
    assert supervisor.pending == 0


async def kill_running_worker(supervisor: Supervisor, diary: Diary, *names: str) -> None:
    """Kill it once all of ``names`` took part in steps of its, and wait until that is known."""
    deaths, seen = len(diary.causes), len(diary.steps)

    def running() -> bool:
        members = {name for stats in diary.steps[seen:] for name, _ in stats.members}
        return members.issuperset(names)

    await diary.until(running)
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    await diary.until(lambda: len(diary.causes) > deaths)


async def test_requests_in_two_deaths_run_alone_and_in_a_third_are_convicted(
    running: tuple[Supervisor, Diary],
) -> None:
    """Both innocent, here, as the worker is killed from outside: the promise is the same."""
    supervisor, diary = running
    asked = replace(SHORT_REQUEST, n=4, num_inference_steps=60)
    before = await run(supervisor, "before", asked)
    lucky = asyncio.create_task(run(supervisor, "lucky", asked))
    unlucky = asyncio.create_task(run(supervisor, "unlucky", ENDLESS_REQUEST))
    for _ in range(2):
        await kill_running_worker(supervisor, diary, "lucky", "unlucky")
    other = asyncio.create_task(run(supervisor, "other"))
    its_like = asyncio.create_task(run(supervisor, "like", fingerprint=b"unlucky"))
    diary.steps.clear()
    assert_same(await lucky, before)
    await kill_running_worker(supervisor, diary, "unlucky")
    assert max(stats.requests for stats in diary.steps) == 1
    with pytest.raises(WorkerKilled, match="three times"):
        await unlucky
    with pytest.raises(Quarantined):
        await its_like
    assert await other
    assert diary.counted["convicted"] == 1
    with pytest.raises(Quarantined, match="refused for another"):
        await run(supervisor, "retry", ENDLESS_REQUEST, fingerprint=b"unlucky")
    assert await run(supervisor, "others are welcome")


async def test_a_worker_that_goes_silent_over_its_work_is_killed(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    diary.causes.clear()
    diary.steps.clear()
    task = asyncio.create_task(run(supervisor, "frozen", replace(SHORT_REQUEST, n=8)))
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGSTOP)
    assert len((await task).pictures) == 8
    assert diary.causes == ["silence"]


@pytest.mark.chaos
async def test_who_goes_away_and_asks_again_is_found_out_all_the_same(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    deaths = len(diary.causes)
    for number in range(3):
        name = f"impatient {number}"
        task = asyncio.create_task(run(supervisor, name, ENDLESS_REQUEST, fingerprint=b"same"))
        await kill_running_worker(supervisor, diary, name)
        task.cancel()
    assert len(diary.causes) == deaths + 3
    with pytest.raises(Quarantined):
        await run(supervisor, "once more", ENDLESS_REQUEST, fingerprint=b"same")
    assert await run(supervisor, "others")


@pytest.mark.chaos
async def test_nobody_is_blamed_for_the_one_that_hung_the_worker_and_went(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    asked = replace(SHORT_REQUEST, n=4, num_inference_steps=60)
    guilty = asyncio.create_task(run(supervisor, "guilty", ENDLESS_REQUEST))
    innocent = asyncio.create_task(run(supervisor, "innocent", asked))
    for _ in range(2):
        await kill_running_worker(supervisor, diary, "guilty", "innocent")
    diary.causes.clear()
    diary.steps.clear()
    await diary.until(lambda: bool(diary.steps))
    assert {name for stats in diary.steps for name, _ in stats.members} == {"guilty"}
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGSTOP)
    guilty.cancel()
    assert await innocent
    assert diary.causes == ["silence"]
    with pytest.raises(Quarantined):
        await run(supervisor, "guilty again", ENDLESS_REQUEST, fingerprint=b"guilty")


async def test_a_worker_that_hangs_over_what_nobody_waits_for_is_killed_too(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    diary.causes.clear()
    diary.steps.clear()
    task = asyncio.create_task(run(supervisor, "left alone", ENDLESS_REQUEST))
    await diary.until(lambda: bool(diary.steps))
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGSTOP)
    task.cancel()
    await diary.until(lambda: diary.causes == ["silence"])
    assert await run(supervisor, "in the next")


async def test_what_is_missing_for_a_start_may_be_there_for_the_next(
    running: tuple[Supervisor, Diary], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, diary = running
    diary.steps.clear()
    diary.causes.clear()
    task = asyncio.create_task(run(supervisor, "patient", replace(SHORT_REQUEST, n=8)))
    await diary.until(lambda: bool(diary.steps))
    unhindered = Channel.open

    def without_a_thread(channel: Channel[object, object]) -> None:
        monkeypatch.setattr(Channel, "open", unhindered)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Channel, "open", without_a_thread)
    assert supervisor.worker_pid is not None
    os.kill(supervisor.worker_pid, signal.SIGKILL)
    assert len((await task).pictures) == 8
    assert diary.causes == ["signal", "launch"]


async def test_an_idle_worker_may_be_silent(running: tuple[Supervisor, Diary]) -> None:
    supervisor, _ = running
    pid = supervisor.worker_pid
    supervisor._watchdog._heard -= 1000
    await asyncio.sleep(0)
    assert await run(supervisor, "after a long silence")
    assert supervisor.worker_pid == pid


async def test_the_finish_of_a_request_is_foreseen(running: tuple[Supervisor, Diary]) -> None:
    supervisor, _ = running
    asked = replace(SHORT_REQUEST, n=4, num_inference_steps=100)
    alone = supervisor.foresee(asked)
    assert alone.finished > 0
    task = asyncio.create_task(run(supervisor, "before it", ENDLESS_REQUEST))
    await asyncio.sleep(0)
    behind = supervisor.foresee(asked)
    assert behind.started > alone.started
    assert behind.finished > alone.finished
    assert set(supervisor.finishes()) == {"before it"}
    task.cancel()


async def test_before_the_start_nothing_is_taken(tiny_checkpoint: Path) -> None:
    supervisor = Supervisor(start_message(tiny_checkpoint), Diary())
    with pytest.raises(NotReady, match="not started"):
        await run(supervisor, "early", SHORT_REQUEST)


async def test_a_checkpoint_that_cannot_be_served_is_not_tried_again(tmp_path: Path) -> None:
    """And signals do not end a worker before it can ignore them, either."""
    async with supervised(tmp_path / "nowhere") as (supervisor, diary):
        await asyncio.sleep(0)
        first = supervisor.worker_pid
        assert first is not None
        os.kill(first, signal.SIGTERM)
        os.kill(first, signal.SIGINT)
        await diary.until(lambda: supervisor.state.phase == "failed")
        assert "nowhere" in supervisor.state.reason
        assert supervisor._lives is not None
        await asyncio.wait_for(supervisor._lives, LONG)
        assert supervisor.worker_pid == first
        assert supervisor.state.phase == "failed"
        with pytest.raises(NotReady, match="nowhere"):
            await run(supervisor, "hopeful", SHORT_REQUEST)


async def test_what_may_pass_is_tried_again_and_told_meanwhile(tiny_checkpoint: Path) -> None:
    async with supervised(tiny_checkpoint) as (supervisor, diary):
        await asyncio.sleep(0)
        supervisor._receive(LoadFailed("the device is busy", final=False))
        await diary.until(lambda: bool(diary.causes))
        assert supervisor.state.phase == "down"
        assert supervisor.state.reason == "the worker could not start: the device is busy"
        await diary.until(lambda: supervisor.state.phase == "ready")


async def test_a_step_that_ends_when_nobody_waits_any_more_leaves_no_rows(
    running: tuple[Supervisor, Diary],
) -> None:
    supervisor, diary = running
    diary.steps.clear()
    task = asyncio.create_task(run(supervisor, "gone", ENDLESS_REQUEST))
    await diary.until(lambda: bool(diary.steps))
    wasted = len(diary.wasted)
    task.cancel()
    await diary.until(lambda: len(diary.wasted) > wasted)
    assert supervisor.pending == 0
    assert diary.rows == 0


async def test_a_worker_that_does_not_end_is_killed(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GOODBYE_SECONDS", 0.1)
    async with supervised(tiny_checkpoint) as (supervisor, _):
        await asyncio.sleep(0)
        pid = supervisor.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await supervisor.stop()
        assert process_is_gone(pid)
        assert supervisor.state.phase == "stopped"


PARENT = """
import asyncio, sys
from tests.engine.test_engine import ENDLESS_REQUEST, run, supervised

async def main():
    async with supervised(sys.argv[1]) as (supervisor, diary):
        await diary.until(lambda: supervisor.state.phase == "ready")
        task = asyncio.create_task(run(supervisor, "unfinished", ENDLESS_REQUEST))
        await diary.until(lambda: bool(diary.steps))
        print(supervisor.worker_pid, flush=True)
        await task

asyncio.run(main())
"""


def test_a_parent_that_is_killed_leaves_no_worker(tiny_checkpoint: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tiny_checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not process_is_gone(worker)
        parent.kill()
    wait_until_gone(worker)
