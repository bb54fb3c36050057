"""Requests of several kinds that share steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.parameters import Fit, Parameters, Scheduler, Size
from app.pipeline import Pipeline, Sample
from tests.support.pipelines import draw, start


def wanted(scheduler: Scheduler, *, steps: int, **others: Any) -> Parameters:
    """One picture of 64×64 pixels with guidance, but for ``others``."""
    plain = Parameters(1, 3.0, steps, scheduler, 7, 64, 64, Fit.SQUASH)
    return replace(plain, **others)


def run_mixed(pipeline: Pipeline, buckets: Sequence[int]) -> list[Sample]:
    """Six requests that join one by one, of the sizes that the pipeline offers, to their ends.

    Each step has the smallest bucket that holds it, or as many rows as it needs.
    """
    first, last = pipeline.model.sizes[0], pipeline.model.sizes[-1]
    requests = [
        (0, first, wanted(Scheduler.PNDM, n=2, steps=6)),
        (0, first, wanted(Scheduler.DDIM, guidance_scale=1.0, steps=3)),
        (1, first, wanted(Scheduler.EULER, n=3, steps=4)),
        (3, last, wanted(Scheduler.HEUN, n=2, steps=3)),
        (4, first, wanted(Scheduler.UNIPC, guidance_scale=1.0, steps=5)),
        (8, first, wanted(Scheduler.DEIS, steps=4)),
    ]
    samples: list[Sample] = []
    for step in range(20):
        for joins, size, parameters in requests:
            if joins == step:
                samples += start(pipeline, draw(1), _sized(parameters, size))
        for size in pipeline.model.sizes:
            running = [s for s in samples if s.steps_left and s.size == size]
            rows = sum(sample.rows for sample in running)
            if running:
                pipeline.step(running, next((b for b in buckets if b >= rows), None))
    assert not any(sample.steps_left for sample in samples)
    return samples


def _sized(parameters: Parameters, size: Size) -> Parameters:
    return replace(parameters, width=size[0], height=size[1])
