"""The UNet compiled: beside the steps, which go on eagerly, and taken between two of them."""

import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter

from app.ipc.messages import FromWorker, UNetRuns
from app.pipeline import Pipeline
from app.pipeline.denoiser import Denoiser
from app.worker.retry import raise_if_lost

SWITCH_SECONDS = 0.0005
"""For which the compiler may hold up a step's next operation; Python's own are ten times as many,
at each of some hundred operations."""

logger = logging.getLogger(__name__)


def compile_beside(
    pipeline: Pipeline,
    post: Callable[[Callable[[], None]], None],
    send: Callable[[FromWorker], None],
) -> None:
    """Compile the UNet in a thread of its own; ``post`` has the loop's thread take it then.

    Where it cannot be compiled the worker goes on eagerly, and says so.
    """
    send(UNetRuns("compiling"))
    work = partial(_compile, pipeline, post, send)
    threading.Thread(target=work, name="compile", daemon=True).start()


def _compile(
    pipeline: Pipeline,
    post: Callable[[Callable[[], None]], None],
    send: Callable[[FromWorker], None],
) -> None:
    began, usual = perf_counter(), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        denoiser = pipeline.compiled()
    except BaseException as error:
        post(partial(_failed, error, send))
    else:
        post(partial(_take, pipeline, denoiser, began, send))
    finally:
        sys.setswitchinterval(usual)


def _take(
    pipeline: Pipeline, denoiser: Denoiser, began: float, send: Callable[[FromWorker], None]
) -> None:
    pipeline.take(denoiser)
    logger.info("The UNet is compiled, after %.0f s beside the steps", perf_counter() - began)
    send(UNetRuns("compiled"))


def _failed(error: BaseException, send: Callable[[FromWorker], None]) -> None:
    if not isinstance(error, Exception):
        raise error
    raise_if_lost(error)
    logger.error("The UNet goes on running eagerly: %s", error, exc_info=error)
    send(UNetRuns("not compiled"))
