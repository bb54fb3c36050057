"""The image, built once for all tests that run it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.engine import build

IMAGE: Final = "localhost/variations-test:cpu"


@pytest.fixture(scope="session")
def _engine() -> Iterator[None]:
    """The engine set up as ``install.sh`` has left it."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "run `make test-deploy`, which installs what these tests need"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            os.environ, "CONTAINERS_CONF", str(Path(kubectl).parents[1] / "containers.conf")
        )
        yield


@pytest.fixture(scope="session")
def image(_engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    build(IMAGE, tmp_path_factory.mktemp("build"))
    return IMAGE
