"""An engine over the tiny checkpoint for all tests of a module."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.engine.engine import Engine
from tests.support.engine import Diary, running_engine


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Asynchronous tests of a module share one asyncio loop."""
    return "asyncio"


@pytest.fixture(scope="module")
def one_thread_a_worker() -> Iterator[None]:
    """Tensors this small only suffer from more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
async def shared_engine(
    tiny_checkpoint: Path, one_thread_a_worker: None
) -> AsyncIterator[tuple[Engine, Diary]]:
    async with running_engine(tiny_checkpoint) as (engine, diary):
        await diary.until(lambda: engine.state.phase == "ready")
        yield engine, diary


@pytest.fixture
async def running(shared_engine: tuple[Engine, Diary]) -> tuple[Engine, Diary]:
    """The module's engine with a worker that is ready, nothing to do and an empty diary."""
    engine, diary = shared_engine
    await diary.until(lambda: engine.state.phase == "ready" and not engine.pending)
    diary.steps.clear()
    diary.causes.clear()
    diary.wasted.clear()
    diary.counted.clear()
    return engine, diary
