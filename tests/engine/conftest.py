"""What the engine's tests share."""

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Asynchronous tests of a module share one asyncio loop."""
    return "asyncio"
