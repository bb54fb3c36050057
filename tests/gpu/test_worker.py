"""A worker process on the device that is killed in the middle of its work."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from app.engine.engine import Engine
from app.engine.generation import Result
from app.engine.watchdog import Timeouts
from app.ipc.messages import DeviceUse, Start
from app.parameters import ModelConfig, Parameters
from app.pipeline import Pipeline
from tests.support.engine import LONG, Diary, kill_while_running, submit
from tests.support.requests import encoder_input
from tests.support.workers import MIXED

pytestmark = pytest.mark.gpu


class Noting(Diary):
    """A diary of a worker that has a GPU to report."""

    def device(self, use: DeviceUse) -> None:
        assert 0 <= use.used <= use.reserved
        assert use.reserved <= use.occupied <= use.total


def parameters(pipeline: Pipeline) -> dict[str, Parameters]:
    width, height = pipeline.model.sizes[0]
    return {
        name: replace(each, width=width, height=height, num_inference_steps=40)
        for name, each in MIXED.items()
    }


async def answers(
    device: str, requests: dict[str, Parameters], side: int, *, killed: bool
) -> dict[str, Result]:
    """The results of the requests, whose worker is killed once all of them have been stepped."""
    diary = Noting()
    config = ModelConfig("demo", device=device, dtype="auto")
    start = Start(config, max_rows=8, fixed_bucket=True)
    engine = Engine(start, diary, Timeouts(start=LONG, step=30.0))
    await engine.start()
    try:
        await diary.until(lambda: engine.state.phase in ("ready", "failed"))
        assert engine.state.phase == "ready", engine.state.reason
        picture = encoder_input(side=side)
        made = {name: submit(engine, name, each, picture) for name, each in requests.items()}
        if killed:
            await kill_while_running(engine, diary, *requests)
        results = {name: await generation.result() for name, generation in made.items()}
        assert diary.causes == (["signal"] if killed else [])
    finally:
        await engine.stop()
    return results


def test_a_worker_that_is_killed_is_replaced_and_gives_the_same_bytes(device: str) -> None:
    pipeline = Pipeline.load(ModelConfig("demo", device="cpu"))
    requests, side = parameters(pipeline), pipeline.preprocessing.side
    undisturbed = asyncio.run(answers(device, requests, side, killed=False))
    replayed = asyncio.run(answers(device, requests, side, killed=True))
    for name, result in undisturbed.items():
        for ours, theirs in zip(replayed[name].pictures, result.pictures, strict=True):
            assert ours is not None
            assert theirs is not None
            assert np.array_equal(ours, theirs)
