"""Fixtures that tests of several folders share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.checkpoints import make_checkpoint
from tests.support.pictures import picture_file
from tests.support.processes import ServiceProcess, service_process

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


@pytest.fixture(scope="session")
def running(tiny_checkpoint: Path) -> Iterator[ServiceProcess]:
    """The whole service over the tiny checkpoint, in processes of its own."""
    with service_process(
        model=str(tiny_checkpoint),
        device="cpu",
        dtype="float32",
        max_rows="16",
        max_queue="16",
        previews="on",
    ) as service:
        service.wait_for("ready:")
        yield service
        service.signal(signal.SIGINT)
        service.assert_clean_end()
