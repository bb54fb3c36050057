"""From a new process to the loop: open the pipe, load the model, warm up."""

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
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.scheduling.batcher import Batcher
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
    pipeline = _load(start.config, send)
    send(Loading("warming up"))
    found = warm_up(pipeline, start)
    rounded = {rows: round(seconds, 4) for rows, seconds in found.step_seconds.items()}
    logger.debug("Seconds of a step by rows: %s; at most %d rows", rounded, found.row_cap)
    sizes = buckets(found.row_cap, pipeline.model.device, fixed=start.fixed_bucket)
    decoded_at_once = 1 if start.fixed_bucket else DECODED_AT_ONCE
    send(
        Ready(
            model=pipeline.model,
            preprocessing=pipeline.preprocessing,
            buckets=tuple(sizes),
            step_seconds=found.step_seconds,
            encode_seconds=found.encode_seconds,
            decode_seconds=found.decode_seconds,
            decoded_at_once=decoded_at_once,
        )
    )
    watch(pipeline.model.device, send)
    return Worker(pipeline, Batcher(sizes), inbox, send, decoded_at_once=decoded_at_once)


def _load(config: ModelConfig, send: Send) -> Pipeline:
    """Load, trying again for as long as it is the hub that does not answer."""
    while True:
        try:
            return Pipeline.load(config, lambda stage, fraction: send(Loading(stage, fraction)))
        except CheckpointUnavailable as error:
            logger.warning("%s; trying again in %g s", error.message, HUB_AGAIN_SECONDS)
            send(Loading(f"{error.message}; trying again"))
            time.sleep(HUB_AGAIN_SECONDS)


def buckets(cap: int, device: str, *, fixed: bool) -> list[int]:
    """The batch sizes of a step: few on CUDA, where each costs tuning; on a CPU no padding."""
    if fixed:
        return [cap]
    if device == "cpu":
        return list(range(1, cap + 1))
    return [*(2**power for power in range((cap - 1).bit_length())), cap]


def _leave() -> None:
    """End the process from the reading thread, whatever the main thread is doing.

    Nobody is left to work for: neither a step nor a download needs to be finished.
    """
    os._exit(0)
