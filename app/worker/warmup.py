"""Before the first request: one real picture, and the row cap with the seconds of some steps."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch

from app.errors import CheckpointError, DeviceUnavailable, GenerationFailed
from app.ipc.messages import Ready, Start
from app.parameters import Condition
from app.pipeline import Pipeline, Row, Sample
from app.pipeline.devices import ran_out_of_memory
from app.pipeline.safety import UNCHECKED
from app.scheduling.row_cap import SMALLEST_CAP, find_row_cap
from app.worker.retry import raise_if_lost

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

AT_ONCE = 4
"""Most pictures in one encode or decode: the step that waits behind it waits for no more."""

LEAST_RUNS, MOST_RUNS, ENOUGH_SECONDS = 2, 5, 1.0

logger = logging.getLogger(__name__)


def warm_up(pipeline: Pipeline, start: Start) -> Ready:
    """Make a picture, so that no request pays for what only the first one must, and find the cap.

    The cap is the configured one, or follows from an earlier worker's times, or from new ones.
    Raises :class:`CheckpointError` where no picture comes out of it, and
    :class:`DeviceUnavailable` where the device's memory does not hold one.
    """
    with _explaining(pipeline):
        return _warm_up(pipeline, start)


def _warm_up(pipeline: Pipeline, start: Start) -> Ready:
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
        at_once=1 if start.fixed_bucket else AT_ONCE,
    )


def buckets(cap: int, device: str, *, fixed: bool) -> list[int]:
    """The batch sizes of a step: few on CUDA, where each costs tuning; on a CPU no padding."""
    if fixed:
        return [cap]
    if device == "cpu":
        return list(range(1, cap + 1))
    return [*(2**power for power in range((cap - 1).bit_length())), cap]


@contextmanager
def _explaining(pipeline: Pipeline) -> Iterator[None]:
    """Make an error that an operator can act on of whatever goes wrong in here."""
    try:
        yield
    except (CheckpointError, DeviceUnavailable):
        raise
    except Exception as error:
        raise_if_lost(error)
        words = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if ran_out_of_memory(error):
            raise DeviceUnavailable(
                f"the device's memory does not hold the warm-up's picture: {words}"
            ) from error
        dtype = pipeline.dtype("unet")
        raise CheckpointError(
            f"the warm-up's picture cannot be made in {pipeline.model.dtype}: {words}; "
            f"{_remedy(dtype)}"
        ) from error


def _not_finite(pipeline: Pipeline, part: str) -> CheckpointError:
    dtype = pipeline.dtype(part)
    name = str(dtype).removeprefix("torch.")
    return CheckpointError(
        f"the {part} makes numbers of the warm-up's picture that are not finite in {name}: "
        f"{_remedy(dtype)}"
    )


def _remedy(dtype: torch.dtype) -> str:
    """Words on what to do where numbers are not finite, or operations missing, in ``dtype``."""
    match dtype:
        case torch.float16:
            return "VARIATIONS_DTYPE=float32, or bfloat16, has a wider range"
        case torch.bfloat16:
            return "VARIATIONS_DTYPE=float32 is more exact"
        case _:
            return "there is no wider type to choose, so the checkpoint itself is broken"


def _make_a_picture(pipeline: Pipeline) -> tuple[Sequence[Row], float, float]:
    """Rows of a grey picture, and the seconds of encoding it and of decoding a sample."""
    grey = pipeline.preprocessing(np.full((64, 64, 3), 128, np.uint8), pipeline.model.fit)
    began = perf_counter()
    try:
        # With guidance, so that every sample has two rows.
        rows = pipeline.condition(Condition.guided(grey, 3.0))
    except GenerationFailed as error:
        raise _not_finite(pipeline, "image_encoder") from error
    encoded = perf_counter()
    [sample] = _samples(pipeline, rows, number=1, steps=2)
    while sample.steps_left:
        pipeline.step([sample]).wait()
    if not sample.latents.isfinite().all():
        raise _not_finite(pipeline, "unet")
    stepped = perf_counter()
    [decoded] = pipeline.decode([sample])
    decode = perf_counter() - stepped
    if decoded.error:
        raise _not_finite(pipeline, "safety_checker" if decoded.error == UNCHECKED else "vae")
    return rows, encoded - began, decode


def _seconds_of_step(pipeline: Pipeline, rows: Sequence[Row], bucket: int) -> float:
    """The shortest of a few runs: the first pays for tuning, and a busy machine delays some.

    Infinity where so many rows do not fit in memory.
    """
    try:
        samples = _samples(pipeline, rows, number=max(1, bucket // 2), steps=MOST_RUNS)
        runs: list[float] = []
        while len(runs) < min(MOST_RUNS, samples[0].steps) and (
            len(runs) < LEAST_RUNS or sum(runs) < ENOUGH_SECONDS
        ):
            began = perf_counter()
            pipeline.step(samples, bucket).wait()
            runs.append(perf_counter() - began)
        return min(runs)
    except Exception as error:
        if ran_out_of_memory(error):
            return math.inf
        raise


def _samples(pipeline: Pipeline, rows: Sequence[Row], *, number: int, steps: int) -> list[Sample]:
    """Samples of the default size and solver, with ``steps`` steps or as few as can be more."""
    parameters = pipeline.model.defaults(num_inference_steps=pipeline.fewest_steps(steps))
    return [pipeline.start(rows, parameters, index) for index in range(number)]
