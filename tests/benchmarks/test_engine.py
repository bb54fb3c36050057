"""Steps of the engine beside diffusers' own."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from app.parameters import ModelConfig
from app.pipeline import Pipeline
from benchmarks import engine
from benchmarks.contenders import CONFIGS, inputs, random_unet, served
from benchmarks.roofline import PEAKS, flops, peak, shortest


def test_contenders_are_measured_at_each_number_of_samples() -> None:
    with engine.checkpoint("tiny") as folder:
        pipeline = Pipeline.load(ModelConfig(str(folder), device="cpu", dtype="float32"))
        unet = engine.diffusers_unet(folder, pipeline)
        contenders = {
            "served": engine.served(pipeline),
            "diffusers": engine.of_diffusers(unet, folder),
        }
        found = engine.measure(contenders, [1, 3], 1, unet)
    assert [(each.samples, each.contender) for each in found] == [
        (1, "served"), (1, "diffusers"), (3, "served"), (3, "diffusers"),
    ]  # fmt: skip
    for each in found:
        assert each.pictures_per_second == pytest.approx(each.samples / each.step_seconds / 50)
        assert each.share_of_limit is None  # there is no peak of a CPU
    assert [row["rows"] for row in engine.table(found)] == [2, 2, 6, 6]
    assert set(engine.plots(found)[0].lines) == {"served", "diffusers"}


@torch.inference_mode()
def test_the_served_unet_has_the_weights_and_the_inputs_of_diffusers_own() -> None:
    unet = random_unet("tiny", torch.float32)
    latents, timesteps, tokens = inputs(unet, 3)
    expected = unet(latents, timesteps, tokens).sample
    assert float((served(unet)(latents, timesteps, tokens) - expected).abs().max()) < 1e-4


def test_operations_are_counted_and_the_shortest_time_follows_from_the_peak() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIGS["full-size"])
    # 398.4 GMAC a row, of which cross-attention to one token is little.
    assert flops(unet, 2, 64) / 2 / 2 / 1e9 == pytest.approx(398.4, rel=0.02)
    h200 = peak("NVIDIA H200")
    assert h200 == PEAKS["H200"]
    assert peak("NVIDIA H100 PCIe") != peak("NVIDIA H100 80GB HBM3") == PEAKS["H100"]
    assert peak("another card") is None
    assert shortest(h200, int(989e12), 1) == pytest.approx(1.0)
    assert shortest(h200, 1, int(4.8e12)) == pytest.approx(1.0)
