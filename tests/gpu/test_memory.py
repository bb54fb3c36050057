"""Memory that really runs out, on a device whose allocator is held to less than a step takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from app.ipc.messages import RanOut, StepStats
from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
from tests.support.mixed import wanted
from tests.support.requests import encoder_input
from tests.support.workers import Harness, assert_same, submit

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_float32")]

SIDE = 512
BUCKETS = (2, 4, 8, 16, 32, 64, 128)
NAMES = "abcdefgh"


def serve(pipeline: Pipeline) -> Harness:
    """Eight requests of eight pictures with guidance, which all fit into one step of 1.8 GB."""
    picture = encoder_input(side=pipeline.preprocessing.side)
    parameters = wanted(Scheduler.DDIM, n=8, steps=12, width=SIDE, height=SIDE)
    harness = Harness.over(pipeline, BUCKETS, at_once=1)
    harness.answer_all(
        *(submit(name, replace(parameters, seed=ord(name)), picture) for name in NAMES)
    )
    return harness


@contextmanager
def memory_held_to(amount: int) -> Iterator[None]:
    """The allocator reserves at most so many bytes."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(amount / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_batch_that_does_not_fit_is_split_and_nobody_fails(
    device: str, cuda_graphs: bool
) -> None:
    if not device.startswith("cuda"):
        pytest.skip("the memory of a CPU is not held to an amount")
    sizes = ((SIDE, SIDE),)
    pipeline = Pipeline.load(
        ModelConfig("demo", device=device, dtype="float32", sizes=sizes, cuda_graphs=cuda_graphs)
    )
    pipeline.prepare([2, 4], tune=False)
    torch.cuda.empty_cache()
    idle = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    undisturbed = serve(pipeline)
    assert undisturbed.said_of(RanOut) == []
    most = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    with memory_held_to((idle + most) // 2):
        harness = serve(pipeline)
    stages = {said.stage for said in harness.said_of(RanOut)}
    print(f"idle {idle:,}, most {most:,} bytes; ran out in {sorted(stages)}")
    assert "step" in stages
    assert max(stats.rows for stats in undisturbed.said_of(StepStats)) == BUCKETS[-1]
    assert harness.said_of(StepStats)[-1].cap < BUCKETS[-1]
    for name in NAMES:
        assert_same(harness.pictures(name), undisturbed.pictures(name))
