"""What the worker's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.pipeline import Pipeline
from tests.support.checkpoints import SMALL, WIDE


@pytest.fixture(scope="session")
def pipeline(tiny_checkpoint: Path) -> Iterator[Pipeline]:
    """A real pipeline with random weights, offering two sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small only suffer from more
    yield Pipeline.load(str(tiny_checkpoint), device="cpu", dtype="float32", sizes=(SMALL, WIDE))
    torch.set_num_threads(threads)
