"""Before the first request: one real picture, and the row cap with the seconds of some steps."""

import logging
import math
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from app.ipc.messages import Ready, Start
from app.parameters import Condition, Parameters, Scheduler
from app.pipeline import Pipeline, Row
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.row_cap import SMALLEST_CAP, find_row_cap

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

DECODED_AT_ONCE = 4
"""Most pictures in one decode: the step that waits behind it waits no longer than for these."""

LEAST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 5, 1.0

logger = logging.getLogger(__name__)


def warm_up(pipeline: Pipeline, start: Start) -> Ready:
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
    logger.debug("Seconds of a step by rows: %s; at most %d rows", table, cap)
    return Ready(
        model=pipeline.model,
        preprocessing=pipeline.preprocessing,
        buckets=tuple(buckets(cap, pipeline.model.device, fixed=start.fixed_bucket)),
        step_seconds={bucket: each for bucket, each in table.items() if math.isfinite(each)},
        encode_seconds=encode,
        decode_seconds=decode,
        decoded_at_once=1 if start.fixed_bucket else DECODED_AT_ONCE,
    )


def buckets(cap: int, device: str, *, fixed: bool) -> list[int]:
    """The batch sizes of a step: few on CUDA, where each costs tuning; on a CPU no padding."""
    if fixed:
        return [cap]
    if device == "cpu":
        return list(range(1, cap + 1))
    return [*(2**power for power in range((cap - 1).bit_length())), cap]


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
        some = max(1, bucket // 2)
        samples = [pipeline.start(rows, parameters, index) for index in range(some)]
        runs: list[float] = []
        while len(runs) < MOST_RUNS and (len(runs) < LEAST_RUNS or sum(runs) < ENOUGH_SECONDS):
            began = perf_counter()
            pipeline.step(samples, bucket).wait()
            runs.append(perf_counter() - began)
        return min(runs)
    except Exception as error:
        if ran_out_of_memory(error):
            return math.inf
        raise


def _parameters(pipeline: Pipeline, *, steps: int) -> Parameters:
    """A request for the default size; with guidance, so every sample has two rows."""
    return pipeline.model.defaults(
        guidance_scale=3.0, num_inference_steps=steps, scheduler=Scheduler.DDIM
    )
