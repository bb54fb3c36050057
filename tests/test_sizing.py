"""Figures of a machine by a real worker, and the settings that follow from figures."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app import sizing
from app.cli import app
from app.errors import WorkerUnavailable
from app.parameters import Scheduler
from app.scheduling.costs import Costs
from app.settings import Settings
from app.sizing import Sizing, bench
from tests.support.workers import PARAMETERS, start_message

FOUND = Sizing(
    model="demo", device="cpu", dtype="float32", size="96x96", threads=1, start_seconds=5.0,
    step_seconds={2: 0.02, 8: 0.05}, row_cap=8, cap_reason="throughput", encode_seconds=0.01,
    decode_seconds=0.02, default_steps=25, alone=0.6, pictures_alone=1.7, pictures_batched=3.0,
    longest=40.0, computed=("longest",),
)  # fmt: skip


def advice(found: Sizing, **settings: Any) -> dict[str, int]:
    advised = sizing._advised(found, Settings(**settings))
    return {each.setting: each.value for each in advised.advice}


@pytest.mark.slow  # a worker's start, and its figures
def test_benchmark_sizes_the_machine_with_the_configured_model(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIATIONS_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("VARIATIONS_DEVICE", "cpu")
    monkeypatch.setenv("VARIATIONS_DTYPE", "float32")
    monkeypatch.setenv("VARIATIONS_MAX_ROWS", "8")
    result = CliRunner().invoke(app, ["benchmark", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["model"], found["device"], found["row_cap"]) == (tiny_checkpoint.name, "cpu", 8)
    assert set(found["step_seconds"]) == {"2", "8"}
    times = "start_seconds", "encode_seconds", "decode_seconds", "alone", "pictures_batched"
    assert all(found[name] > 0 for name in times)
    assert {each["setting"]: each["value"] for each in found["advice"]}["VARIATIONS_MAX_ROWS"] == 8


@pytest.mark.slow  # a worker's start
def test_benchmark_says_why_a_model_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIATIONS_MODEL", str(tmp_path))
    result = CliRunner().invoke(app, ["benchmark"])
    assert result.exit_code == 1
    assert tmp_path.name in result.output


@pytest.mark.slow  # a worker's start
def test_a_worker_that_ends_is_told(tiny_checkpoint: Path) -> None:
    async def lose() -> None:
        async with bench(start_message(str(tiny_checkpoint))) as made:
            pid = made.pid
            assert pid is not None
            os.kill(pid, 9)
            await made.run([replace(PARAMETERS, num_inference_steps=100, n=8)])

    with pytest.raises(WorkerUnavailable, match="SIGKILL"):
        asyncio.run(lose())


def test_time_outs_leave_room_for_the_costliest_request() -> None:
    assert advice(FOUND)["VARIATIONS_REQUEST_TIMEOUT"] == 300
    slow = advice(replace(FOUND, longest=1234.0))
    assert slow["VARIATIONS_REQUEST_TIMEOUT"] == 2500
    assert slow["VARIATIONS_DRAIN_TIMEOUT"] == 2530


def test_the_queue_is_what_is_done_within_the_time_out() -> None:
    assert advice(replace(FOUND, pictures_batched=0.2))["VARIATIONS_MAX_QUEUE"] == 60
    assert advice(replace(FOUND, pictures_batched=0.001))["VARIATIONS_MAX_QUEUE"] == 4
    assert advice(FOUND)["VARIATIONS_MAX_QUEUE"] == 256


def test_what_is_too_long_to_be_run_is_computed_from_its_parts() -> None:
    costs = Costs()
    costs.measured(PARAMETERS.size, {2: 1.0, 8: 2.0}, encode=0.5, decode=0.25)
    parameters = replace(PARAMETERS, num_inference_steps=10, scheduler=Scheduler.DDIM)
    assert sizing.predicted(costs, parameters, 1, row_cap=8) == 10 * 1.0 + 0.75
    assert sizing.predicted(costs, parameters, 8, row_cap=8) == 2 * 10 * 2.0 + 8 * 0.75


def test_people_read_what_was_computed_and_why() -> None:
    advised = sizing._advised(replace(FOUND, computed=("alone", "longest")), Settings())
    text = sizing.as_text(advised)
    assert "0.6 s for one picture of 25 steps (computed from the steps)" in text
    assert "VARIATIONS_MAX_ROWS=8\n    more rows would make steps longer" in text
