"""Fixtures of the training's tests: small checkpoints and data, one thread."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.training.world import Picture, draw, sample_held_out


@pytest.fixture(scope="session")
def drawings() -> list[Picture]:
    """Twelve different drawings."""
    rng = np.random.default_rng(12)
    return [draw(scene, rng) for scene in sample_held_out(12, rng)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, drawings: list[Picture]) -> Path:
    """A folder with the drawings as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, drawing in enumerate(drawings):
        Image.fromarray(drawing).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for one another make parts this small many times slower on a busy box."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
