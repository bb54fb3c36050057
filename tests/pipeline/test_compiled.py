"""The compiled UNet."""

from pathlib import Path

import pytest
import torch

from app.errors import CheckpointError
from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_any_number_of_rows_is_equal_within_the_bound_and_nothing_is_compiled_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    plain = Pipeline.load(ModelConfig(str(tiny_folder), device="cpu", dtype="float32"))
    said: list[str] = []
    config = ModelConfig(str(tiny_folder), device="cpu", dtype="float32", compile=True)
    fast = Pipeline.load(config, lambda stage, _: said.append(stage))
    assert said == ["loading", "compiling"]
    assert any((tmp_path / "kept").iterdir())
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for n in (1, 2, 3, 5, 8):
        expected = latents(plain, n)
        off = (latents(fast, n) - expected).abs().max() / expected.std()
        assert float(off) < BOUND
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_compiled_is_said(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    config = ModelConfig(str(tiny_folder), device="cpu", dtype="float32", compile=True)
    with pytest.raises(CheckpointError, match=r"No working C\+\+ compiler.*VARIATIONS_COMPILE=off"):
        Pipeline.load(config)


def test_a_compiled_unet_that_computes_something_else_is_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(function: Denoiser) -> Denoiser:
        return lambda *inputs: function(*inputs) * 1.05

    monkeypatch.setattr(torch, "compile", wrong)
    config = ModelConfig(str(tiny_folder), device="cpu", dtype="float32", compile=True)
    with pytest.raises(CheckpointError, match=r"off by 5\.0%"):
        Pipeline.load(config)
