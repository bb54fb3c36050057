"""One worker process and the pipe to it, from launch to exit status."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Literal

from app import launch
from app.ipc.channel import Channel
from app.ipc.messages import FromWorker, Start, ToWorker

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables in which the hub's library looks for the token of its user."""

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Variables in which torch looks for the settings of its allocator; it reads one of them."""

Cause = Literal["signal", "exit", "timeout", "launch"]
"""Why a worker is no more: by a signal from outside, by itself, killed after a timeout, or it was
never launched."""


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """The end of a worker; ``reason`` is the rest of a sentence that begins with "the worker"."""

    cause: Cause
    reason: str


class WorkerProcess:
    """A worker from its launch to its end. Belongs to the event loop that launches it.

    ``on_message`` runs on that loop, for every message until :meth:`close`. ``ended`` is set when
    the pipe has ended, which is as soon as the process has, and after its last message.
    """

    def __init__(self, on_message: Callable[[FromWorker], None]) -> None:
        self.ended = asyncio.Event()
        self._on_message = on_message
        self._closed = False
        self._timed_out = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[ToWorker, FromWorker] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, once launched."""
        return self._process.pid if self._process else None

    def launch(self, start: Start) -> None:
        """Start the process and tell it what to load.

        Raises :class:`OSError` or :class:`RuntimeError` if it, or a thread to talk to it, cannot
        be started.
        """
        ours, theirs = Pipe(duplex=True)
        with theirs, _blocked_signals():
            self._process = subprocess.Popen(
                launch.command("app.worker.main", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd=launch.working_folder(),
            )
        loop = asyncio.get_running_loop()
        self._channel = Channel(
            ours,
            on_message=lambda message: _call_soon(loop, lambda: self._deliver(message)),
            on_end=lambda: _call_soon(loop, self.ended.set),
        )
        self._channel.open()
        self._channel.send(start)

    def send(self, message: ToWorker) -> None:
        """Send without waiting; dropped if the process has ended."""
        if self._channel:
            self._channel.send(message)

    def hang_up(self) -> None:
        """End the pipe, whereupon the process ends itself."""
        if self._channel:
            self._channel.hang_up()

    def kill_after_timeout(self) -> None:
        """End the process by force, because it makes no progress any more."""
        self._timed_out = True
        self.kill()

    def kill(self) -> None:
        """End the process by force."""
        if self._process:
            self._process.kill()
        self.hang_up()  # a process that a driver holds fast would not end its pipe

    async def close(self, seconds: float) -> WorkerExit:
        """End the pipe and wait for the process, killing it after ``seconds``."""
        self._closed = True
        return await asyncio.to_thread(self._close, seconds)

    def _close(self, seconds: float) -> WorkerExit:
        if self._channel:
            self._channel.close()
        if not self._process:
            return WorkerExit("launch", "was never started")
        try:
            return self._exit(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            return WorkerExit("timeout", f"did not end within {seconds:g} seconds and was killed")

    def _exit(self, status: int) -> WorkerExit:
        if self._timed_out:
            return WorkerExit("timeout", "made no progress and was killed")
        if status >= 0:
            return WorkerExit("exit", f"exited with status {status}")
        return WorkerExit("signal", f"was ended by {_signal_name(-status)}")

    def _deliver(self, message: FromWorker) -> None:
        if not self._closed:
            self._on_message(message)


_SHORT_WAITS = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}
"""Rounds, about a millisecond, and milliseconds for which OpenMP's threads spin at the end of an
operation before they sleep. By default they spin for as long as others want the core."""


def _environment() -> dict[str, str]:
    """This process's own without its secrets: the worker is told all that it needs by the pipe.

    On a GPU its memory then grows in place: a cap that rises and falls, and pictures of several
    sizes, would leave gaps in it that none of them fit.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VARIATIONS_") and name not in HUB_TOKENS
    }
    if "OMP_WAIT_POLICY" not in environment:
        environment = _SHORT_WAITS | environment
    if not any(name in environment for name in ALLOCATOR_SETTINGS):
        environment[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
    return environment


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """A child started in here ignores Ctrl-C, SIGTERM and SIGHUP from its first instruction.

    It inherits the mask, and so comes to ignore them before one can end it; it ends with its
    pipe instead.
    """
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has been closed: nobody is left to be told
        loop.call_soon_threadsafe(callback)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
