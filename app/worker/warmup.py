"""Before the first request: one real picture, and the row cap with the seconds of some steps."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.ipc.messages import Start
from app.parameters import Condition, Parameters, Scheduler
from app.pipeline import Pipeline, Row, Sample
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.row_cap import SMALLEST_CAP, find_row_cap

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

LEAST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 5, 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Results of the warm-up.

    ``step_seconds`` maps some numbers of rows to the seconds of a step; ``encode_seconds`` are for
    one condition, ``decode_seconds`` for one picture.
    """

    row_cap: int
    step_seconds: dict[int, float]
    encode_seconds: float
    decode_seconds: float


def warm_up(pipeline: Pipeline, start: Start) -> WarmUp:
    """Make a picture, so that no request pays for what only the first one must, and find the cap.

    The cap is the configured one, or follows from an earlier worker's times, or from new ones.
    """
    rows, encode, decode = _make_a_picture(pipeline)
    if encode + decode < ENOUGH_SECONDS:  # the first one pays for tuning
        rows, encode, decode = _make_a_picture(pipeline)
    table = dict(start.step_seconds)

    def seconds_of_step(bucket: int) -> float:
        if not start.step_seconds:
            table[bucket] = _seconds_of_step(pipeline, rows, bucket)
        return table.get(bucket, math.inf)

    cap = start.max_rows or (FIXED_BUCKET if start.fixed_bucket else None)
    if cap is None:
        cap = find_row_cap(seconds_of_step)
    # The smallest step and the largest, as far as that takes no long time.
    elif seconds_of_step(SMALLEST_CAP) * cap / SMALLEST_CAP < ENOUGH_SECONDS:
        seconds_of_step(cap)
    finite = {bucket: seconds for bucket, seconds in table.items() if math.isfinite(seconds)}
    return WarmUp(cap, finite, encode, decode)


def _make_a_picture(pipeline: Pipeline) -> tuple[Sequence[Row], float, float]:
    """Rows of a grey picture, and the seconds of encoding it and of decoding a sample."""
    grey = pipeline.preprocessing(np.full((64, 64, 3), 128, np.uint8), pipeline.model.fit)
    parameters = _parameters(pipeline, steps=2)
    began = perf_counter()
    rows = pipeline.condition(Condition.guided(grey, parameters.guidance_scale))
    encoded = perf_counter()
    sample = pipeline.start(rows, parameters, 0)
    while sample.steps_left:
        pipeline.step([sample]).wait()
    stepped = perf_counter()
    [decoded] = pipeline.decode([sample])
    if decoded.error:
        logger.warning("The warm-up picture could not be made: %s", decoded.error)
    return rows, encoded - began, perf_counter() - stepped


def _seconds_of_step(pipeline: Pipeline, rows: Sequence[Row], bucket: int) -> float:
    """The shortest of a few runs: the first pays for tuning, and a busy machine delays some.

    Infinity where so many rows do not fit in memory.
    """
    parameters = _parameters(pipeline, steps=MOST_RUNS)
    try:
        some = range(max(1, bucket // 2))
        samples = [pipeline.start(rows, parameters, index) for index in some]
        runs: list[float] = []
        while len(runs) < MOST_RUNS and (len(runs) < LEAST_RUNS or sum(runs) < ENOUGH_SECONDS):
            runs.append(_timed_step(pipeline, samples, bucket))
        return min(runs)
    except Exception as error:
        if ran_out_of_memory(error):
            return math.inf
        raise


def _timed_step(pipeline: Pipeline, samples: list[Sample], bucket: int) -> float:
    began = perf_counter()
    pipeline.step(samples, bucket).wait()
    return perf_counter() - began


def _parameters(pipeline: Pipeline, *, steps: int) -> Parameters:
    """A request for the default size; with guidance, so every sample has two rows."""
    return pipeline.model.defaults(
        guidance_scale=3.0, num_inference_steps=steps, scheduler=Scheduler.DDIM
    )
