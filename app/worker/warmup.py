"""Before the first request: one real picture, then the threads and the row cap that suit."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

import numpy as np

from app.cores import usable_cores
from app.errors import CheckpointError, DeviceUnavailable, GenerationFailed
from app.ipc.messages import Measured, Ready, Start
from app.parameters import Condition
from app.pipeline import Pipeline, Row, Sample
from app.pipeline.devices import is_of_the_device, ran_out_of_memory
from app.pipeline.files import may_pass
from app.pipeline.safety import UNCHECKED
from app.scheduling.row_cap import SMALLEST_CAP, CapReason, find_row_cap
from app.worker import threads
from app.worker.measuring import ROWS_TRIED, Stopwatch
from app.worker.selfcheck import check, not_finite, remedy

FIXED_BUCKET = 8
"""Rows of the one bucket where no number is set: bytes that stay the same over restarts must not
hang on a measurement."""

MOST_ROWS_OF_GPU = 32
"""More are not tried by themselves: the largest known cards are used to nine tenths by fewer."""

MOST_ROWS_OF_CORE = 16
"""More for each core of a CPU are not chosen: one is used to nine tenths by 8 to 16. Beside others'
work threads that wait for each other make small steps look worse than they are."""

AT_ONCE = 4
"""Most pictures in one encode or decode: the step that waits behind it waits for no more."""

ENOUGH_SECONDS = 1.0
"""Of a first picture, after which no second one is made."""

logger = logging.getLogger(__name__)


def warm_up(pipeline: Pipeline, start: Start) -> Ready:
    """Make a picture, so that no request pays for what only the first one must, and measure steps.

    The row cap and the threads are the configured ones, an earlier worker's, or found anew.
    Raises :class:`CheckpointError` where no picture comes out of it, and
    :class:`DeviceUnavailable` where the device's memory does not hold one.
    """
    with _explaining(pipeline):
        check(pipeline)
        return _warm_up(pipeline, start)


def _warm_up(pipeline: Pipeline, start: Start) -> Ready:
    rows, encode, decode = _make_a_picture(pipeline)
    if encode + decode < ENOUGH_SECONDS:  # the first one pays for tuning
        rows, encode, decode = _make_a_picture(pipeline)
    if start.previews:
        _show_a_preview(pipeline, rows)
    on_gpu = pipeline.model.device != "cpu"
    if on_gpu:  # what is measured must be what will run
        # Same seed, same bytes: at every start, so nothing may hang on what is measured at one.
        pipeline.prepare(_buckets_of_gpu(start), tune=not start.fixed_bucket)
    measured = start.earlier or _measured(Stopwatch(pipeline, rows), start, on_gpu=on_gpu)
    measured = replace(measured, attention=_attention(pipeline))
    logger.info(
        "At most %d rows in a step (%s), %d threads; seconds of a step by rows: %s",
        measured.row_cap,
        measured.cap_reason,
        measured.threads,
        {rows: float(f"{seconds:.3g}") for rows, seconds in measured.step_seconds.items()},
    )
    most = measured.row_cap
    if not on_gpu and _set_cap(start) is None:  # there it may rise later
        most = max(most, *measured.step_seconds)
    return Ready(
        model=pipeline.model,
        preprocessing=pipeline.preprocessing,
        buckets=tuple(buckets(most, pipeline.model.device, fixed=start.fixed_bucket)),
        measured=measured,
        encode_seconds=encode,
        decode_seconds=decode,
        at_once=1 if start.fixed_bucket else AT_ONCE,
        beside=on_gpu,
    )


def _attention(pipeline: Pipeline) -> str:
    """The kernels of self-attention in words; they are chosen anew at every start."""
    chosen = sorted(pipeline.attention.items(), reverse=True)
    words = [f"{positions} × {channels}: {name}" for (_, positions, channels), name in chosen]
    return ", ".join(words)


def _set_cap(start: Start) -> int | None:
    """The row cap, where it is no matter of measuring."""
    return start.max_rows or (FIXED_BUCKET if start.fixed_bucket else None)


def _buckets_of_gpu(start: Start) -> list[int]:
    known = start.earlier.row_cap if start.earlier else _set_cap(start)
    return buckets(known or MOST_ROWS_OF_GPU, "cuda", fixed=start.fixed_bucket)


def _measured(stopwatch: Stopwatch, start: Start, *, on_gpu: bool) -> Measured:
    """With one fixed bucket bytes must not hang on a measurement: neither cap nor threads do."""
    counts = threads.candidates()
    chosen = stopwatch.choose_threads(counts[-1:] if start.fixed_bucket else counts)
    if (cap := _set_cap(start)) is not None:
        times = stopwatch.step_times(sorted({min(SMALLEST_CAP, cap), cap}))
        reason = CapReason.SET if start.max_rows else CapReason.FIXED_BUCKET
        return Measured(times.seconds, cap, reason, chosen, disturbance=times.disturbance)
    most = MOST_ROWS_OF_GPU if on_gpu else MOST_ROWS_OF_CORE * usable_cores()
    tried = most if on_gpu else 2 * most  # which tells how near it is to what can be reached
    times = stopwatch.step_times([rows for rows in ROWS_TRIED if rows <= tried])
    cap, reason = find_row_cap(times.undisturbed, fits=times.fits, most=most)
    return Measured(times.seconds, cap, reason, chosen, disturbance=times.disturbance)


def buckets(most: int, device: str, *, fixed: bool) -> list[int]:
    """The batch sizes of a step: on a CPU no padding, on a GPU few, each of which is warmed up.

    1, 2, 3, 4, 6, 8, 10, 12, 16 and from there on four to each doubling: over 1 to 32 rows 6 % are
    padding, where powers of two would have 29 %.
    """
    if fixed:
        return [most]
    if device == "cpu":
        return list(range(1, most + 1))
    sizes = [1, 2, 3, 4, 6, 8, 10, 12, 16]
    while sizes[-1] < most:
        sizes.append(sizes[-1] + (1 << (sizes[-1].bit_length() - 3)))
    return [*(size for size in sizes if size < most), most]


@contextmanager
def _explaining(pipeline: Pipeline) -> Iterator[None]:
    """Make an error that an operator can act on of whatever goes wrong in here."""
    try:
        yield
    except (CheckpointError, DeviceUnavailable):
        raise
    except Exception as error:
        if not ran_out_of_memory(error) and (is_of_the_device(error) or may_pass(error)):
            raise  # another start may mend it
        words = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if ran_out_of_memory(error):
            raise DeviceUnavailable(
                f"the device's memory does not hold the warm-up's picture: {words}"
            ) from error
        dtype = pipeline.dtype("unet")
        raise CheckpointError(
            f"the warm-up's picture cannot be made in {pipeline.model.dtype}: {words}; "
            f"{remedy(dtype)}"
        ) from error


def _make_a_picture(pipeline: Pipeline) -> tuple[Sequence[Row], float, float]:
    """Rows of a grey picture, and the seconds of encoding it and of decoding a sample."""
    grey = pipeline.preprocessing(np.full((64, 64, 3), 128, np.uint8), pipeline.model.fit)
    began = perf_counter()
    try:
        # With guidance, so that every sample has two rows.
        rows = pipeline.condition(Condition.guided(grey, 3.0))
    except GenerationFailed as error:
        raise not_finite(pipeline, "image_encoder") from error
    encoded = perf_counter()
    [sample] = _samples(pipeline, rows, number=1, steps=2)
    while sample.steps_left:
        pipeline.step([sample]).wait()
    if not sample.latents.isfinite().all():
        raise not_finite(pipeline, "unet")
    stepped = perf_counter()
    [decoded] = pipeline.decode([sample])
    decode = perf_counter() - stepped
    if decoded.error:
        raise not_finite(pipeline, "safety_checker" if decoded.error == UNCHECKED else "vae")
    return rows, encoded - began, decode


def _show_a_preview(pipeline: Pipeline, rows: Sequence[Row]) -> None:
    """Have the previews fitted to the checkpoint."""
    [sample] = _samples(pipeline, rows, number=1, steps=2)
    pipeline.step([sample])
    pipeline.preview([sample]).wait()


def _samples(pipeline: Pipeline, rows: Sequence[Row], *, number: int, steps: int) -> list[Sample]:
    """Samples of the default size and solver, with ``steps`` steps or as few as can be more."""
    parameters = pipeline.model.defaults(num_inference_steps=pipeline.fewest_steps(steps))
    return [pipeline.start(rows, parameters, index) for index in range(number)]
