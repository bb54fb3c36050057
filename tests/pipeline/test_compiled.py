"""The compiled UNet."""

from operator import is_
from pathlib import Path

import pytest
import torch

import app.pipeline.compiled
from app.errors import CheckpointError
from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
from app.pipeline.compiled import sharing
from app.pipeline.denoiser import Denoiser
from tests.support.pipelines import draw, start

BOUND = 1e-4
"""Of latents after all steps, in units of their standard deviation: what is compiled is rounded
elsewhere."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kept"))


def latents(pipeline: Pipeline, n: int) -> torch.Tensor:
    """Final latents of so many pictures."""
    parameters = pipeline.model.defaults(
        n=n, guidance_scale=3.0, num_inference_steps=4, scheduler=Scheduler.DDIM
    )
    samples = start(pipeline, draw(1), parameters)
    while samples[0].steps_left:
        pipeline.step(samples)
    return torch.stack([sample.latents for sample in samples])


def load(folder: Path, *, compile_it: bool = False) -> Pipeline:
    config = ModelConfig(str(folder), device="cpu", dtype="float32", compile=compile_it)
    return Pipeline.load(config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_any_number_of_rows_and_threads_is_equal_within_the_bound_and_runs_what_was_compiled(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.pipeline.compiled, "WHERE_IT_DOES_NOT_FIT", "fail_on_recompile")
    plain, fast = load(tiny_folder), load(tiny_folder, compile_it=True)
    fast.take(fast.compiled())
    assert any((tmp_path / "kept").iterdir())
    usual = torch.get_num_threads()
    for n, threads in ((1, 1), (2, 2), (3, 1), (5, 2), (8, 1)):
        expected = latents(plain, n)
        torch.set_num_threads(threads)
        off = (latents(fast, n) - expected).abs().max() / expected.std()
        torch.set_num_threads(usual)
        assert float(off) < BOUND


def test_a_copy_shares_the_weights_and_nothing_else(tiny_folder: Path) -> None:
    unet = load(tiny_folder)._parts.unet
    copy = sharing(unet)
    assert all(map(is_, unet.parameters(), copy.parameters()))
    copy.conv_in = torch.nn.Identity()
    assert not isinstance(unet.conv_in, torch.nn.Identity)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_compiled_is_said(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function, options: no_compiler)
    pipeline = load(tiny_folder, compile_it=True)
    with pytest.raises(CheckpointError, match=r"No working C\+\+ compiler.*VARIATIONS_COMPILE=off"):
        pipeline.compiled()


def test_a_compiled_unet_that_computes_something_else_is_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(function: Denoiser, options: object) -> Denoiser:
        return lambda *inputs: function(*inputs) * 1.05

    monkeypatch.setattr(torch, "compile", wrong)
    pipeline = load(tiny_folder, compile_it=True)
    with pytest.raises(CheckpointError, match=r"off by 5\.0%"):
        pipeline.compiled()
