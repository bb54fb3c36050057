"""From a new process to the loop: open the pipe, load the model, warm up."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from queue import SimpleQueue
from time import perf_counter

from app import logs
from app.errors import CheckpointUnavailable, DeviceUnavailable, VariationsError
from app.ipc.channel import Channel
from app.ipc.messages import FromWorker, LoadFailed, Loading, Ready, Start, ToWorker, UNetRuns
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.pipeline.devices import is_of_the_device, ran_out_of_memory
from app.pipeline.files import may_pass
from app.scheduling.batcher import Batcher
from app.worker.compiling import compile_beside
from app.worker.device import watch
from app.worker.loop import Inbox, Worker
from app.worker.side import Beside, InTurn, Side
from app.worker.tuning import Tuning
from app.worker.warmup import warm_up

HUB_AGAIN_SECONDS = 10.0

logger = logging.getLogger(__name__)


def serve(connection: Connection) -> None:
    """Load what the first message says and make variations until the pipe ends."""
    inbox: Inbox = SimpleQueue()
    channel: Channel[FromWorker, ToWorker] = Channel(
        connection,
        on_message=lambda message: inbox.put((perf_counter(), message)),
        # Nobody is left to work for: neither a step nor a download needs to be finished.
        on_end=lambda: os._exit(0),
    )

    def post(done: Callable[[], None]) -> None:
        inbox.put((perf_counter(), done))

    channel.open()
    _, start = inbox.get()
    if not isinstance(start, Start):
        raise TypeError(f"the first message is a Start, not {start!r}")
    logs.configure(start.log_level, start.log_format, "worker")
    prepared = prepare(start, channel.send)
    if isinstance(prepared, LoadFailed):
        channel.send(prepared)
        threading.Event().wait()  # whoever has read it ends the pipe
        return
    pipeline, ready = prepared
    channel.send(ready)
    watch(pipeline.model.device, channel.send)
    tuning = Tuning.of(start, ready)
    batcher = Batcher(ready.buckets)
    side: Side = InTurn()
    if ready.beside:
        side = Beside(ready.model.device, post)
    if start.config.compile and start.fixed_bucket:
        channel.send(UNetRuns("compiled"))
    elif start.config.compile:
        compile_beside(pipeline, post, channel.send)
    Worker(pipeline, batcher, inbox, channel.send, ready.at_once, tuning, side).run()


def prepare(
    start: Start, send: Callable[[FromWorker], None]
) -> tuple[Pipeline, Ready] | LoadFailed:
    """Load and warm up what the message says, telling how far it is; why not, where it cannot."""
    try:
        with _hub_token(start.hub_token):
            pipeline = _load(start.config, send)
        if start.config.compile and start.fixed_bucket:  # taken later, it would change bytes
            send(Loading("compiling"))
            pipeline.take(pipeline.compiled())
        send(Loading("warming up"))
        return pipeline, warm_up(pipeline, start)
    except Exception as error:
        failed = _failed(error)
        logger.error("%s", failed.message)
        logs.flush()  # before this process is ended for it
        return failed


def _failed(error: Exception) -> LoadFailed:
    """The end of a start, final unless it is the machine that failed and not the checkpoint."""
    match error:
        case DeviceUnavailable():
            return LoadFailed(error.message, final=False)
        case VariationsError():
            return LoadFailed(error.message, final=True)
    logger.error("The model could not be loaded", exc_info=error)
    passing = may_pass(error) or ran_out_of_memory(error) or is_of_the_device(error)
    said = str(error).strip() or "no more is said"
    return LoadFailed(f"{type(error).__name__} while loading: {said:.500}", final=not passing)


@contextmanager
def _hub_token(token: str | None) -> Iterator[None]:
    """Let the hub's library find the token, for no longer than it needs it."""
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        os.environ.pop("HF_TOKEN", None)


def _load(config: ModelConfig, send: Callable[[FromWorker], None]) -> Pipeline:
    """Load, trying again for as long as it is the hub that does not answer."""
    while True:
        try:
            return Pipeline.load(config, lambda stage, fraction: send(Loading(stage, fraction)))
        except CheckpointUnavailable as error:
            logger.warning("%s; trying again in %g s", error.message, HUB_AGAIN_SECONDS)
            send(Loading(f"{error.message}; trying again"))
            time.sleep(HUB_AGAIN_SECONDS)
