"""Before the first request: one real picture, and how many rows a step should have."""

import logging
import math
from functools import partial
from time import perf_counter

import numpy as np
import torch

from app.engine.knee import Knee, find_knee, knee_of
from app.engine.messages import Embedding, Start
from app.parameters import Parameters, Scheduler
from app.pipeline import Pipeline, Sample

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

LEAST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 5, 1.0

logger = logging.getLogger(__name__)


def warm_up(pipeline: Pipeline, start: Start) -> Knee:
    """Make a picture, so that no request pays for what only the first one must, and find the cap.

    The cap is the configured one, or an earlier worker's by its table, or measured.
    """
    embedding = _make_a_picture(pipeline)
    if start.max_rows is not None:
        return Knee(start.max_rows, start.step_seconds)
    if start.fixed_bucket:
        return Knee(FIXED_BUCKET, start.step_seconds)
    if start.step_seconds:
        return knee_of(start.step_seconds)
    return find_knee(partial(_seconds_of_step, pipeline, embedding))


def _make_a_picture(pipeline: Pipeline) -> Embedding:
    grey = np.full((64, 64, 3), 128, np.uint8)
    embedding = pipeline.encode(grey, pipeline.model.fit)
    sample = pipeline.start(embedding, _parameters(pipeline, steps=2), 0)
    while sample.steps_left:
        pipeline.step([sample]).wait()
    [decoded] = pipeline.decode([sample])
    if decoded.error:
        logger.warning("The warm-up picture could not be made: %s", decoded.error)
    return embedding


def _seconds_of_step(pipeline: Pipeline, embedding: Embedding, bucket: int) -> float:
    """The shortest of a few runs: the first pays for tuning, and a busy machine delays some."""
    parameters = _parameters(pipeline, steps=MOST_RUNS)
    try:
        samples = [pipeline.start(embedding, parameters, index) for index in range(bucket // 2)]
        runs: list[float] = []
        while len(runs) < MOST_RUNS and (len(runs) < LEAST_RUNS or sum(runs) < ENOUGH_SECONDS):
            runs.append(_timed_step(pipeline, samples))
        return min(runs)
    except torch.OutOfMemoryError:
        return math.inf


def _timed_step(pipeline: Pipeline, samples: list[Sample]) -> float:
    started = perf_counter()
    pipeline.step(samples).wait()
    return perf_counter() - started


def _parameters(pipeline: Pipeline, *, steps: int) -> Parameters:
    """A request for the default size; with guidance, so every sample has two rows."""
    width, height = pipeline.model.sizes[0]
    return Parameters(
        n=1,
        guidance_scale=3.0,
        num_inference_steps=steps,
        scheduler=Scheduler.DDIM,
        seed=0,
        width=width,
        height=height,
        fit=pipeline.model.fit,
    )
