"""Answers that come when nobody waits any more."""

import asyncio

import numpy as np
import pytest

from app.engine.generation import Job
from app.errors import GenerationFailed, WorkerDied
from app.ipc.messages import Done
from app.parameters import Fit, Parameters, Scheduler

pytestmark = pytest.mark.anyio

PARAMETERS = Parameters(1, 3.0, 5, Scheduler.DDIM, 0, 64, 64, Fit.SQUASH)
DONE = Done("a", (None,), (), 5)


async def a_job() -> Job:
    answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
    return Job("a", PARAMETERS, b"like it", answer, np.zeros((2, 2, 3), np.uint8))


async def test_a_late_answer_to_a_cancelled_job_is_dropped() -> None:
    job = await a_job()
    job.answer.cancel()
    job.finish(DONE)
    job.fail(GenerationFailed("late"))
    assert job.answer.cancelled()


async def test_the_first_answer_counts() -> None:
    job = await a_job()
    job.fail(WorkerDied("first"))
    job.finish(DONE)
    with pytest.raises(WorkerDied, match="first"):
        await job.answer


async def test_a_job_runs_again_from_its_embedding() -> None:
    job = await a_job()
    job.source = np.ones(4, np.float32)
    assert job.submit().source is job.source
