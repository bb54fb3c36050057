"""A tiny checkpoint of random weights, our pipeline and the reference on it, on every device."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.parameters import ModelConfig
from app.pipeline import Pipeline
from tests.support.checkpoints import make_checkpoint
from tests.support.reference import Reference

NAMED = os.environ.get("VARIATIONS_TEST_DEVICE")
DEVICES = [NAMED] if NAMED else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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
    """Every device there is, or the one named.

    What is equal in float32 is not in TF32, which CUDA would take.
    """
    torch.backends.cudnn.allow_tf32 = False
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it; make another with ``make_checkpoint``."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, device: str) -> Pipeline:
    return Pipeline.load(
        ModelConfig(str(tiny_folder), device=device, dtype="float32", sizes=((64, 64), (96, 64)))
    )


@pytest.fixture(scope="session")
def reference(tiny_folder: Path, device: str) -> Reference:
    return Reference(tiny_folder, device)
