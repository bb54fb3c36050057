"""Before the first request: one real picture, and how many rows a step should have."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from app.ipc.messages import Embedding, Start
from app.parameters import Parameters, Scheduler
from app.pipeline import Pipeline, Sample
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.row_cap import SMALLEST_CAP, Knee, find_knee, knee_of

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

LEAST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 5, 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Warmth:
    """What the warm-up found: the cap with the seconds of some steps, and those of one picture."""

    knee: Knee
    encode_seconds: float
    decode_seconds: float


def warm_up(pipeline: Pipeline, start: Start) -> Warmth:
    """Make a picture, so that no request pays for what only the first one must, and find the cap.

    The cap is the configured one, or an earlier worker's by its table, or measured.
    """
    embedding, encode, decode = _make_a_picture(pipeline)
    if encode + decode < ENOUGH_SECONDS:  # the first one pays for tuning
        embedding, encode, decode = _make_a_picture(pipeline)
    return Warmth(_knee(pipeline, start, embedding), encode, decode)


def _knee(pipeline: Pipeline, start: Start, embedding: Embedding) -> Knee:
    step_seconds = partial(_seconds_of_step, pipeline, embedding)
    wanted = start.max_rows or (FIXED_BUCKET if start.fixed_bucket else None)
    if wanted is not None:
        return Knee(wanted, start.step_seconds or _some_steps(step_seconds, wanted))
    if start.step_seconds:
        return knee_of(start.step_seconds)
    return find_knee(step_seconds)


def _some_steps(seconds_of: Callable[[int], float], cap: int) -> dict[int, float]:
    """Seconds of the smallest step and of the largest, as far as that takes no long time."""
    table = {SMALLEST_CAP: seconds_of(SMALLEST_CAP)}
    if table[SMALLEST_CAP] * cap / SMALLEST_CAP < ENOUGH_SECONDS:
        table[cap] = seconds_of(cap)
    return {rows: seconds for rows, seconds in table.items() if math.isfinite(seconds)}


def _make_a_picture(pipeline: Pipeline) -> tuple[Embedding, float, float]:
    """The embedding of a grey picture, and the seconds of encoding it and of decoding a sample."""
    grey = np.full((64, 64, 3), 128, np.uint8)
    began = perf_counter()
    embedding = pipeline.encode(grey, pipeline.model.fit)
    encoded = perf_counter()
    sample = pipeline.start(embedding, _parameters(pipeline, steps=2), 0)
    while sample.steps_left:
        pipeline.step([sample]).wait()
    stepped = perf_counter()
    [decoded] = pipeline.decode([sample])
    if decoded.error:
        logger.warning("The warm-up picture could not be made: %s", decoded.error)
    return embedding, encoded - began, perf_counter() - stepped


def _seconds_of_step(pipeline: Pipeline, embedding: Embedding, bucket: int) -> float:
    """The shortest of a few runs: the first pays for tuning, and a busy machine delays some."""
    parameters = _parameters(pipeline, steps=MOST_RUNS)
    try:
        some = range(max(1, bucket // 2))
        samples = [pipeline.start(embedding, parameters, index) for index in some]
        runs: list[float] = []
        while len(runs) < MOST_RUNS and (len(runs) < LEAST_RUNS or sum(runs) < ENOUGH_SECONDS):
            runs.append(_timed_step(pipeline, samples, bucket))
        return min(runs)
    except Exception as error:
        if ran_out_of_memory(error):
            return math.inf
        raise


def _timed_step(pipeline: Pipeline, samples: list[Sample], bucket: int) -> float:
    started = perf_counter()
    pipeline.step(samples, bucket).wait()
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
