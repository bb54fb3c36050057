"""Fixtures that tests of several folders share."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.checkpoints import make_checkpoint
from tests.support.pictures import picture_file

settings.register_profile(
    "busy", deadline=None
)  # how long an example takes is the machine's affair
settings.load_profile("busy")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of random weights that runs in milliseconds."""
    folder = tmp_path_factory.mktemp("tiny")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small photograph-like PNG."""
    return picture_file("PNG")
