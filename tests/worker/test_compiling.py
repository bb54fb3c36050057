"""A UNet that is compiled while the worker steps."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from app.ipc.messages import (
    Done,
    Failed,
    FromWorker,
    PictureDone,
    Ready,
    StepStats,
    UNetRuns,
)
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.pipeline.denoiser import Denoiser
from app.worker.compiling import compile_beside
from tests.support.checkpoints import SMALL
from tests.support.workers import (
    Harness,
    assert_same,
    made_alone,
    start_message,
    submit,
    worker_process,
)


class Compiler:
    """Stands for torch's: compiles once it may, into what counts its calls."""

    def __init__(self, off: float = 1.0) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        self._off = off

    def __call__(self, function: Denoiser, options: object) -> Denoiser:
        def predict(latents: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
            self.begun.set()
            assert self.may_end.wait(60.0)
            self.calls += 1
            return function(latents, times, conditions) * self._off

        return predict


@pytest.fixture
def compilable(config: ModelConfig, pipeline: Pipeline) -> Pipeline:
    """Loaded after the one that all share, which sets the threads."""
    return Pipeline.load(replace(config, compile=True, sizes=(SMALL,)))


def begin(pipeline: Pipeline, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> Harness:
    monkeypatch.setattr(torch, "compile", compiler)
    harness = Harness.over(pipeline)
    compile_beside(pipeline, lambda done: harness.inbox.put((0.0, done)), harness.said.append)
    assert compiler.begun.wait(60.0)
    return harness


def test_steps_go_on_eagerly_and_then_on_what_was_compiled(
    compilable: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made_alone(compilable, submit("alone"))
    compiler = Compiler()
    harness = begin(compilable, compiler, monkeypatch)
    harness.tell(submit("across"))
    harness.turn_until(lambda: len(harness.said_of(StepStats)) == 2)
    assert compiler.calls == 0
    compiler.may_end.set()
    harness.inbox.put(harness.inbox.get(timeout=60.0))  # it has come
    harness.turn_until(lambda: "across" in harness.answers)
    checked = 3
    assert compiler.calls == checked + 2
    assert harness.said_of(UNetRuns) == [UNetRuns("compiling"), UNetRuns("compiled")]
    assert_same(harness.pictures("across"), expected)


def test_what_comes_out_otherwise_is_not_taken_and_is_said(
    compilable: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = made_alone(compilable, submit("alone"))
    compiler = Compiler(off=1.05)
    compiler.may_end.set()
    harness = begin(compilable, compiler, monkeypatch)
    harness.inbox.put(harness.inbox.get(timeout=60.0))
    harness.answer_all(submit("after"))
    assert harness.said_of(UNetRuns) == [UNetRuns("compiling"), UNetRuns("not compiled")]
    assert "goes on running eagerly: the compiled UNet is off by 5.0%" in caplog.text
    assert_same(harness.pictures("after"), expected)


@pytest.mark.slow
def test_torchs_own_compiler_beside_the_steps_of_a_real_worker(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilable: Pipeline,
) -> None:
    [expected] = made_alone(compilable, submit("alone"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    start = start_message(str(tiny_checkpoint))
    heard: list[FromWorker] = []
    with worker_process() as worker:
        *_, ready = worker.started(replace(start, config=replace(start.config, compile=True)))
        assert isinstance(ready, Ready)
        after = 0
        while after < 2:
            worker.pipe.send(submit("again"))
            heard += worker.heard_until(Done, Failed)
            assert isinstance(heard[-1], Done)
            after += UNetRuns("compiled") in heard
    runs = [message for message in heard if isinstance(message, UNetRuns)]
    assert runs == [UNetRuns("compiling"), UNetRuns("compiled")]
    pictures = [message.picture for message in heard if isinstance(message, PictureDone)]
    assert len(pictures) > after
    for picture in pictures:
        assert picture is not None
        assert_same(picture.astype(np.int16), expected)
