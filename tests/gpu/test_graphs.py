"""CUDA graphs as CUDA itself records and plays them."""

from typing import Any

import pytest
import torch

from app.parameters import ModelConfig
from app.pipeline import Pipeline
from tests.support.mixed import run_mixed

pytestmark = pytest.mark.gpu

BUCKETS = (2, 3, 4, 6, 8, 12)
SIZES = ((96, 96), (128, 96))


def load(device: str, dtype: str, *, cuda_graphs: bool) -> Pipeline:
    config = ModelConfig("demo", device=device, dtype=dtype, sizes=SIZES, cuda_graphs=cuda_graphs)
    pipeline = Pipeline.load(config)
    pipeline.prepare(BUCKETS, tune=False)
    return pipeline


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_played_is_equal_to_the_byte_to_what_runs_eagerly(
    device: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[object] = []
    replay = torch.cuda.CUDAGraph.replay

    def counting(graph: Any) -> None:
        played.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting)
    expected = run_mixed(load(device, dtype, cuda_graphs=False), BUCKETS)
    assert not played
    recorded = load(device, dtype, cuda_graphs=True)
    for _ in range(2):  # the second time after memory was given back
        for sample, other in zip(run_mixed(recorded, BUCKETS), expected, strict=True):
            assert torch.equal(sample.latents, other.latents)
        recorded.free_memory()
    assert bool(played) == device.startswith("cuda")
