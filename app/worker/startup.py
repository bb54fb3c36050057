"""A worker's life: open the pipe, load, warm up, and then the loop."""

import logging
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from time import perf_counter

from app import logs
from app.errors import CheckpointError, CheckpointUnavailable, DeviceUnavailable
from app.ipc.channel import Channel
from app.ipc.messages import FromWorker, LoadFailed, Loading, Ready, Start, ToWorker
from app.pipeline import Pipeline
from app.scheduling.batcher import Batcher
from app.scheduling.row_cap import powers_of_two
from app.worker.device import watch
from app.worker.loop import Inbox, Worker
from app.worker.warmup import warm_up

DECODED_AT_ONCE = 4
"""Most pictures in one decode: the step that waits behind it waits no longer than for these."""

HUB_AGAIN_SECONDS = 10.0

logger = logging.getLogger(__name__)

Send = Callable[[FromWorker], None]


def serve(connection: Connection) -> None:
    """Load what the first message says and make variations until the pipe ends."""
    inbox: Inbox = SimpleQueue()
    channel: Channel[FromWorker, ToWorker] = Channel(
        connection,
        on_message=lambda message: inbox.put((perf_counter(), message)),
        on_end=_leave,
    )
    channel.open()
    _, start = inbox.get()
    if not isinstance(start, Start):
        raise TypeError(f"the first message is a Start, not {start!r}")
    logs.configure(start.log_level, start.log_format, "worker")
    try:
        worker = _prepare(start, inbox, channel.send)
    except (CheckpointError, DeviceUnavailable) as error:
        logger.error("%s", error.message)
        channel.send(LoadFailed(error.message, final=isinstance(error, CheckpointError)))
        threading.Event().wait()  # whoever has read it ends the pipe
    else:
        worker.run()


def _prepare(start: Start, inbox: Inbox, send: Send) -> Worker:
    pipeline = _load(start, send)
    send(Loading("warming up"))
    warmth = warm_up(pipeline, start)
    knee = warmth.knee
    logger.debug(
        "Seconds of a step by rows: %s; at most %d rows", _rounded(knee.step_seconds), knee.cap
    )
    sizes = buckets(knee.cap, pipeline.model.device, fixed=start.fixed_bucket)
    decoded_at_once = 1 if start.fixed_bucket else DECODED_AT_ONCE
    send(
        Ready(
            pipeline.model,
            tuple(sizes),
            knee.step_seconds,
            warmth.encode_seconds,
            warmth.decode_seconds,
            decoded_at_once,
        )
    )
    watch(pipeline.model.device, send)
    return Worker(pipeline, Batcher(sizes), inbox, send, decoded_at_once=decoded_at_once)


def _load(start: Start, send: Send) -> Pipeline:
    """Load, trying again for as long as it is the hub that does not answer."""
    while True:
        try:
            return _load_once(start, send)
        except CheckpointUnavailable as error:
            logger.warning("%s; trying again in %g s", error.message, HUB_AGAIN_SECONDS)
            send(Loading(f"{error.message}; trying again"))
            time.sleep(HUB_AGAIN_SECONDS)


def _load_once(start: Start, send: Send) -> Pipeline:
    return Pipeline.load(
        start.model,
        revision=start.revision,
        device=start.device,
        dtype=start.dtype,
        attention_slicing=start.attention_slicing,
        vae_slicing=start.vae_slicing,
        safety_checker=start.safety_checker,
        sizes=start.sizes,
        progress=lambda stage, fraction: send(Loading(stage, fraction)),
    )


def buckets(cap: int, device: str, *, fixed: bool) -> list[int]:
    """The batch sizes of a step: few on CUDA, where each costs tuning; on a CPU no padding."""
    if fixed:
        return [cap]
    if device == "cpu":
        return list(range(1, cap + 1))
    return [*powers_of_two(1, cap - 1), cap]


def _rounded(step_seconds: dict[int, float]) -> dict[int, float]:
    return {rows: round(seconds, 4) for rows, seconds in step_seconds.items()}


def _leave() -> None:
    """End the process from the reading thread, whatever the main thread is doing.

    Nobody is left to work for: not to finish a step, nor a download, nor to say goodbye.
    """
    os._exit(0)
