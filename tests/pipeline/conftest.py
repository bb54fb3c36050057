"""A tiny checkpoint of random weights, our pipeline and the reference on it, on every device."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.pipeline import Pipeline
from tests.support.checkpoints import make_checkpoint
from tests.support.reference import Reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[int]:
    """Parts this small lose more to a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield threads
    torch.set_num_threads(threads)


@pytest.fixture
def all_threads(one_thread: int) -> Iterator[None]:
    """As many threads as torch takes by itself, which is what OMP_NUM_THREADS says."""
    torch.set_num_threads(one_thread)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device there is. What is equal in float32 is not in TF32, which CUDA would take."""
    torch.backends.cudnn.allow_tf32 = False
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it; make another with ``make_checkpoint``."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, device: str) -> Pipeline:
    return Pipeline.load(
        str(tiny_folder), device=device, dtype="float32", sizes=((64, 64), (96, 64))
    )


@pytest.fixture(scope="session")
def reference(tiny_folder: Path, device: str) -> Reference:
    return Reference(tiny_folder, device)


@pytest.fixture(scope="session")
def draw() -> Callable[[int], NDArray[np.uint8]]:
    """A picture that is neither square nor smooth, another for every seed."""

    def picture(seed: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        fine = rng.integers(0, 40, (50, 70, 3), dtype=np.uint8)
        return np.kron(coarse, np.ones((10, 10, 1), np.uint8)) // 2 + fine

    return picture
