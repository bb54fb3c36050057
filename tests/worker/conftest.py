"""A pipeline that all tests of the worker share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.parameters import ModelConfig
from app.pipeline import Pipeline
from tests.support.checkpoints import SMALL, WIDE


@pytest.fixture(scope="session")
def config(tiny_checkpoint: Path) -> ModelConfig:
    return ModelConfig(str(tiny_checkpoint), device="cpu", dtype="float32", sizes=(SMALL, WIDE))


@pytest.fixture(scope="session")
def pipeline(config: ModelConfig) -> Iterator[Pipeline]:
    """A real pipeline with random weights, offering two sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only suffer from more
    yield Pipeline.load(config)
    torch.set_num_threads(threads)
