"""Fixtures that tests of pictures share."""

import pytest

from tests.support.pictures import picture_file


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def png() -> bytes:
    return picture_file("PNG")
