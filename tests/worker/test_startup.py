"""A real worker process, from its start to the end of its pipe."""

import errno
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.ipc.messages import (
    Done,
    Encoded,
    Failed,
    FromWorker,
    LoadFailed,
    Loading,
    PictureDone,
    Ready,
    StepStats,
)
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.worker import startup
from app.worker.startup import prepare
from tests.support import hub
from tests.support.checkpoints import enlarge, make_checkpoint
from tests.support.hub import REPOSITORY
from tests.support.permissions import needs_linux, permissions_hold
from tests.support.workers import LONGEST_WAIT, start_message, submit, worker_process


def unheard(_: FromWorker) -> None:
    """Who is told how far a start is, and does not listen."""


def test_a_worker_loads_says_what_it_takes_works_and_ends_with_its_pipe(
    tiny_checkpoint: Path,
) -> None:
    """And not by signals that end the API process."""
    with worker_process() as worker:
        *loading, ready = worker.started(start_message(str(tiny_checkpoint)))
        assert all(isinstance(message, Loading) for message in loading)
        assert isinstance(ready, Ready)
        assert ready.model.id == tiny_checkpoint.name
        assert (ready.preprocessing.side, ready.preprocessing.antialias) == (32, False)
        assert ready.buckets == (1, 2, 3, 4)
        assert min(ready.encode_seconds, ready.decode_seconds) > 0

        for number in (signal.SIGINT, signal.SIGTERM):
            worker.process.send_signal(number)
        worker.pipe.send(submit("mine"))
        heard = [type(message) for message in worker.heard_until(Done, Failed)]
        assert heard[0] is Encoded
        assert heard.count(StepStats) == 4
        assert heard[-2:] == [PictureDone, Done]

        worker.pipe.close()
        assert worker.process.wait(LONGEST_WAIT) == 0


def test_a_checkpoint_that_cannot_be_served_is_said_to_be_final(tmp_path: Path) -> None:
    with worker_process() as worker:
        *_, failed = worker.started(start_message(str(tmp_path)))
        assert isinstance(failed, LoadFailed)
        assert failed.final
        assert "safety checker" in failed.message
        worker.pipe.close()
        assert worker.process.wait(LONGEST_WAIT) == 0


def test_a_checkpoint_whose_warm_up_fails_is_never_ready_and_that_is_final(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "loud")
    enlarge(folder, "unet", "conv_out.weight", 5e4)
    config = ModelConfig(str(folder), device="cpu", dtype="float16")
    failed = prepare(replace(start_message(), config=config), unheard)
    assert isinstance(failed, LoadFailed)
    assert failed.final
    assert "float16" in failed.message
    assert "VARIATIONS_DTYPE=float32" in failed.message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("unet/config.json", "[" * 200_000, "unet/config.json cannot be read"),
        ("scheduler/scheduler_config.json", '{"a":' * 200_000, "scheduler_config.json cannot"),
        # Found out only where the first picture is made.
        ("feature_extractor/preprocessor_config.json", '{"crop_size": 17}', "warm-up"),
    ],
)
def test_whatever_a_checkpoint_makes_loading_stumble_over_is_told_and_final(
    tiny_checkpoint: Path, tmp_path: Path, name: str, text: str, words: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    if text.endswith("}"):
        text = json.dumps(json.loads((folder / name).read_text()) | json.loads(text))
    (folder / name).write_text(text)
    failed = prepare(start_message(str(folder)), unheard)
    assert isinstance(failed, LoadFailed)
    assert failed.final
    assert words in failed.message


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), True),
    ],
)
def test_a_warm_up_that_another_start_may_mend_is_not_final(
    error: Exception, final: bool, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(startup, "_load", lambda *_: pipeline)
    monkeypatch.setattr(pipeline, "step", failing)
    failed = prepare(start_message(), unheard)
    assert isinstance(failed, LoadFailed)
    assert failed.final is final
    assert str(error) in failed.message


@needs_linux
@pytest.mark.parametrize("name", [".", "checkpoint", "checkpoint/unet/config.json"])
def test_a_checkpoint_that_may_not_be_read_is_told_and_final(
    tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    inner = tmp_path / "inner"
    folder = Path(shutil.copytree(tiny_checkpoint, inner / "checkpoint"))
    (inner / name).chmod(0)
    with permissions_hold():
        failed = prepare(start_message(str(folder)), unheard)
    (inner / name).chmod(0o700)
    assert isinstance(failed, LoadFailed)
    assert failed.final
    assert "Permission denied; let the user that the service runs as read it" in failed.message


@pytest.mark.slow  # two workers, one after the other, and the waits of both
@pytest.mark.timeout(300)
def test_a_download_cut_short_goes_on_and_is_served_though_the_hub_falls_silent(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.hub(tiny_checkpoint) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        start = start_message(REPOSITORY)
        start = replace(start, config=replace(start.config, revision="v2.0"))
        weights = "unet/diffusion_pytorch_model.safetensors"
        server.cuts[weights] = 100_000
        with worker_process() as worker:
            heard = worker.started(start)
            assert any(isinstance(m, Loading) and "trying again" in m.stage for m in heard)
            assert isinstance(heard[-1], Ready)
        assert server.ranges == {weights: 100_000}
        server.mood = "silent"
        with worker_process() as worker:
            assert isinstance(worker.started(start)[-1], Ready)
