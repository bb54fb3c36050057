"""The device that is tested: a GPU, or what ``VARIATIONS_TEST_DEVICE`` names."""

import os
from collections.abc import Iterator

import pytest
import torch

DEVICE = os.environ.get("VARIATIONS_TEST_DEVICE") or "cuda"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where there is no GPU, rather than have each test fail or be left out in silence."""
    wanted = any(item.get_closest_marker("gpu") for item in session.items)
    if wanted and DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit(
            "There is no GPU to test: torch.cuda.is_available() is false on this machine. "
            "VARIATIONS_TEST_DEVICE=cpu runs what can be run without one.",
            returncode=1,
        )


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Convolutions in float32 itself: CUDA would take TF32, with as many digits as float16."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
