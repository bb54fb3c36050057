"""Steps played back from recordings, with a recorder that any machine has."""

import threading
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.errors import CheckpointError
from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
from app.pipeline.graphs import MOST_SHORTAGES, Graphs
from tests.support.mixed import run_mixed, wanted
from tests.support.pipelines import draw, start

BUCKETS = (2, 4, 8)


class PlainRecorder:
    """Plays back by calling again; notes what was recorded and played."""

    def __init__(self) -> None:
        self.recorded: list[torch.Size] = []
        self.played: list[torch.Size] = []
        self.failing: dict[int, Exception] = {}

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        output = call()
        if error := self.failing.get(len(output)):
            raise error
        self.recorded.append(output.shape)

        def play() -> None:
            self.played.append(output.shape)
            output.copy_(call())

        return output, play


@pytest.fixture
def recorder() -> PlainRecorder:
    return PlainRecorder()


@pytest.fixture
def eager(tiny_folder: Path) -> Pipeline:
    sizes = ((64, 64), (96, 64))
    return Pipeline.load(ModelConfig(str(tiny_folder), device="cpu", dtype="float32", sizes=sizes))


@pytest.fixture
def recorded(eager: Pipeline, recorder: PlainRecorder) -> Pipeline:
    """The same, but for steps that are played back once recorded."""
    pipeline = copy(eager)
    pipeline._unet = copy(eager._unet)
    pipeline._unet.denoiser = Graphs(eager._unet.denoiser, recorder)
    return pipeline


def test_what_is_played_back_is_equal_to_the_byte_and_other_shapes_run_eagerly(
    recorded: Pipeline, eager: Pipeline, recorder: PlainRecorder
) -> None:
    recorded.prepare(BUCKETS, tune=True)
    ours, expected = run_mixed(recorded, BUCKETS), run_mixed(eager, BUCKETS)
    assert {shape[0] for shape in recorder.played} == set(BUCKETS)
    assert len({shape[2:] for shape in recorder.played}) == 2
    for sample, other in zip(ours, expected, strict=True):
        assert torch.equal(sample.latents, other.latents)
    assert len(ours) == 10


def test_the_largest_of_all_sizes_and_buckets_is_recorded_first(
    recorded: Pipeline, recorder: PlainRecorder
) -> None:
    recorded.prepare(BUCKETS, tune=True)
    numbers = [shape.numel() for shape in recorder.recorded]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == len(BUCKETS) * 2


SHORTAGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def broken_off() -> Exception:
    """What ending a recording raises, once memory has run out in it."""
    error = torch.AcceleratorError(
        "CUDA error: operation failed due to a previous error during capture"
    )
    error.__context__ = SHORTAGE
    return error


@pytest.mark.parametrize("error", [SHORTAGE, broken_off()], ids=["in it", "at its end"])
def test_memory_that_runs_out_leaves_that_bucket_eager_and_nothing_else(
    recorded: Pipeline,
    eager: Pipeline,
    recorder: PlainRecorder,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder.failing = {8: error}
    recorded.prepare(BUCKETS, tune=True)
    assert {shape[0] for shape in recorder.recorded} == {2, 4}
    assert "Memory does not hold a step of (8, 4, 16, 16) latents" in caplog.text
    for sample, other in zip(run_mixed(recorded, BUCKETS), run_mixed(eager, BUCKETS), strict=True):
        assert torch.equal(sample.latents, other.latents)
    assert {shape[0] for shape in recorder.played} == {2, 4}


def test_what_cannot_be_recorded_is_refused_with_a_remedy(
    recorded: Pipeline, recorder: PlainRecorder
) -> None:
    words = "CUDA error: operation not permitted when stream is capturing"
    recorder.failing = {4: torch.AcceleratorError(words)}
    with pytest.raises(CheckpointError, match=r"not permitted .* VARIATIONS_CUDA_GRAPHS=off"):
        recorded.prepare(BUCKETS, tune=True)


def test_another_error_in_recording_is_not_hidden(
    recorded: Pipeline, recorder: PlainRecorder
) -> None:
    recorder.failing = {4: torch.AcceleratorError("CUDA error: an illegal memory access")}
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        recorded.prepare(BUCKETS, tune=True)


def test_recordings_are_given_up_only_where_memory_stays_short(
    recorded: Pipeline, eager: Pipeline, recorder: PlainRecorder
) -> None:
    recorded.prepare(BUCKETS, tune=True)
    for _ in range(3):
        for _ in range(MOST_SHORTAGES):
            recorded.free_memory()
        [sample] = start(recorded, draw(1), wanted(Scheduler.DDIM, steps=1))
        recorded.step([sample], 2)
    assert len(recorder.played) == 3
    for _ in range(MOST_SHORTAGES + 1):
        recorded.free_memory()
    for sample, other in zip(run_mixed(recorded, BUCKETS), run_mixed(eager, BUCKETS), strict=True):
        assert torch.equal(sample.latents, other.latents)
    assert len(recorder.played) == 3


def test_another_denoiser_is_recorded_in_the_same_shapes(
    recorded: Pipeline, eager: Pipeline, recorder: PlainRecorder
) -> None:
    recorded.prepare(BUCKETS, tune=True)
    before = list(recorder.recorded)
    called: list[int] = []

    def other(latents: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
        called.append(len(latents))
        return eager._unet.denoiser(latents, times, conditions)

    recorded.take(other)
    assert recorder.recorded == before * 2
    assert len(called) == len(before)
    for sample, same in zip(run_mixed(recorded, BUCKETS), run_mixed(eager, BUCKETS), strict=True):
        assert torch.equal(sample.latents, same.latents)
    assert {shape[0] for shape in recorder.played} == set(BUCKETS)


def test_recordings_are_not_given_up_while_one_is_played() -> None:
    """As where a decode runs out of memory in its own thread."""
    playing, go_on = threading.Event(), threading.Event()
    happened: list[str] = []

    def recorder(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        def play() -> None:
            playing.set()
            go_on.wait(60.0)
            happened.append("played")

        return call(), play

    def make_room() -> None:
        for _ in range(MOST_SHORTAGES + 1):
            graphs.make_room()
        happened.append("given up")

    graphs = Graphs(lambda latents, timesteps, conditions: latents, recorder)
    inputs = torch.ones(2, 4, 8, 8), torch.ones(2), torch.ones(2, 1, 8)
    graphs.record(*inputs)
    step = threading.Thread(target=graphs, args=inputs)
    step.start()
    assert playing.wait(60.0)
    shortage = threading.Thread(target=make_room)
    shortage.start()
    go_on.set()
    step.join()
    shortage.join()
    assert happened == ["played", "given up"]
    graphs(*inputs)
    assert happened == ["played", "given up"]


@pytest.mark.parametrize("tune", [True, False])
def test_cudnn_tries_algorithms_while_steps_are_prepared_unless_bytes_are_promised(
    recorded: Pipeline, monkeypatch: pytest.MonkeyPatch, tune: bool
) -> None:
    tried: list[bool] = []
    denoiser = recorded._unet.denoiser
    assert isinstance(denoiser, Graphs)
    predict = denoiser._denoiser

    def noting(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        tried.append(torch.backends.cudnn.benchmark)
        return predict(latents, timesteps, conditions)

    monkeypatch.setattr(denoiser, "_denoiser", noting)
    recorded.prepare(BUCKETS, tune=tune)
    run_mixed(recorded, BUCKETS)
    prepared = 2 * len(BUCKETS)
    assert tried[:prepared] == [tune] * prepared
    assert not any(tried[prepared:])
