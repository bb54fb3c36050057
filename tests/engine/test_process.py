"""The worker's process: what it is started with, and that it does not outlive its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.api.application import start_message
from app.engine.process import ALLOCATOR_SETTINGS, WorkerProcess
from app.settings import Settings
from tests.support.engine import process_is_gone, wait_until_gone

PARENT = """
import asyncio, os, sys
from pathlib import Path
from tests.support.engine import running_engine, submit
from tests.support.requests import ENDLESS_REQUEST

async def main():
    checkpoint, folder, gone = sys.argv[1:]
    os.chdir(folder)
    if gone == "gone":
        Path(folder).rmdir()
    async with running_engine(Path(checkpoint)) as (engine, diary):
        await diary.until(lambda: engine.state.phase in ("ready", "failed"))
        unfinished = submit(engine, "unfinished", ENDLESS_REQUEST)
        await diary.until(lambda: bool(diary.steps))
        print(engine.worker_pid, flush=True)
        await unfinished.result()

asyncio.run(main())
"""

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", ["runs", "stands still in a folder that is gone"])
def test_a_parent_that_is_killed_leaves_no_worker(
    case: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Whatever lies in the working folder, and whatever the worker is doing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    gone = "gone" if case.endswith("gone") else "there"
    if gone == "there":
        for name in ("app", "torch", "numpy", "json", "ctypes"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    command = [sys.executable, "-P", "-c", PARENT, str(tiny_checkpoint), str(folder), gone]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not process_is_gone(worker)
        if case.startswith("stands still"):
            os.kill(worker, signal.SIGSTOP)
        parent.kill()
    wait_until_gone(worker)
    assert not (tmp_path / "imported").exists()


@pytest.mark.anyio
async def test_a_worker_has_no_keys_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_API_KEYS", "0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    environment = await environment_of_a_worker()
    assert "HF_HUB_OFFLINE" in environment
    assert "0123456789abcdef" not in environment
    assert "hf_secret" not in environment
    assert start_message(Settings()).hub_token == "hf_secret"


@pytest.mark.anyio
@pytest.mark.parametrize("name", [None, *ALLOCATOR_SETTINGS])
async def test_a_worker_has_the_users_settings_of_the_allocator_or_ours(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ALLOCATOR_SETTINGS:
        monkeypatch.delenv(each, raising=False)
    if name:
        monkeypatch.setenv(name, "max_split_size_mb:512")
    environment = await environment_of_a_worker()
    set_to = [line for line in environment.split("\0") if line.startswith("PYTORCH_")]
    ours = "PYTORCH_ALLOC_CONF=expandable_segments:True"
    assert set_to == [f"{name}=max_split_size_mb:512" if name else ours]


async def environment_of_a_worker() -> str:
    worker = WorkerProcess(lambda _: None)
    worker.launch(start_message(Settings()))
    environment = Path(f"/proc/{worker.pid}/environ").read_text()  # noqa: ASYNC240
    worker.kill()
    await worker.close(5.0)
    return environment
