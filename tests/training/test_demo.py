import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImageVariationPipeline
from PIL import Image
from safetensors.torch import load_file

from app.training.demo import Plan, train_demo
from app.training.evaluate import evaluate
from app.training.judge import Judge
from app.training.loop import Recipe
from app.training.world import SIZE

_SHORT = Recipe(steps=2, batch=4, learning_rate=1e-3, ema_decay=0.9)
_PLAN = Plan(
    pairs=40,
    denoiser_pairs=20,
    encoder=_SHORT,
    autoencoder=_SHORT,
    safety=_SHORT,
    varied=4,
    safety_on_variations=_SHORT,
    denoiser_on_codes=_SHORT,
    denoiser=_SHORT,
    denoiser_longer=_SHORT,
    denoiser_width=16,
    judge=_SHORT,
)


def _silent(_name: str, _done: int, _total: int, _loss: float) -> None:
    pass


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def checkpoint(work: Path, one_thread: None) -> Path:
    """The result of two steps of training: the right files, and nonsense in them."""
    folder = work / "demo"
    train_demo(_PLAN, folder, work, 0, _silent)
    return folder


def test_the_reference_pipeline_loads_and_runs_the_checkpoint(checkpoint: Path) -> None:
    pipeline = StableDiffusionImageVariationPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)

    shown = pipeline(Image.new("RGB", (SIZE, SIZE), "red"), num_inference_steps=2).images

    assert [picture.size for picture in shown] == [(SIZE, SIZE)]
    assert {path.suffix for path in checkpoint.rglob("*") if path.is_file()} <= {
        ".json",
        ".md",
        ".safetensors",
    }


def test_weights_are_half_precision(checkpoint: Path) -> None:
    weights = [load_file(path) for path in checkpoint.rglob("*.safetensors")]

    dtypes = {value.dtype for part in weights for value in part.values()}

    assert len(weights) == 4
    assert dtypes - {torch.int64} == {torch.float16}


def test_latents_and_embeddings_are_scaled_as_the_service_expects(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "vae/config.json").read_text())

    assert config["scaling_factor"] > 0
    assert config["scaling_factor"] != 0.18215


def test_training_again_only_goes_on_where_it_was_stopped(
    checkpoint: Path, work: Path, tmp_path: Path
) -> None:
    steps: list[str] = []

    def told(name: str, _done: int, _total: int, loss: float) -> None:
        if loss:
            steps.append(name)

    longer = replace(_PLAN, denoiser=replace(_SHORT, steps=3))
    train_demo(longer, tmp_path / "longer", work, 0, told)

    assert steps == ["denoiser"]
    for part in ("image_encoder/model", "vae/diffusion_pytorch_model"):
        first, again = (
            load_file(folder / f"{part}.safetensors")
            for folder in (checkpoint, tmp_path / "longer")
        )
        assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_evaluation_writes_figures_and_grids(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "load", classmethod(lambda cls: cls().eval()))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 20), "red").save(tmp_path / "pictures/red.jpg")

    figures = evaluate(tmp_path, 2.0, 2, _silent, folder=checkpoint, inputs=9, blocked=2)

    report = json.loads((tmp_path / "demo-model.json").read_text())
    assert set(report["targets"]) <= set(report["figures"])
    assert {name: round(value, 4) for name, value in figures.items()} == report["figures"]
    assert report["settings"]["guidance_scale"] == 2.0
    assert "kind" in report["missed"] or figures["kind"] >= 0.8
    grid = np.asarray(Image.open(tmp_path / "pictures/held-out.png"))
    assert grid.shape[:2] == (4 * SIZE + 3 * 4, 2 * 5 * (SIZE + 4) + 5 * 4)
    assert (tmp_path / "pictures/photographs.png").exists()
