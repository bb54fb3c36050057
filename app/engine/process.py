"""One worker process and the pipe to it, from launch to exit status."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Literal

from app.ipc.channel import Channel
from app.ipc.messages import FromWorker, Start, ToWorker

Cause = Literal["signal", "exit", "silence", "launch"]
"""Why a worker is no more: a signal from outside, of its own accord, killed for having gone
silent, or never launched."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended; ``words`` are the rest of a sentence that begins with "the worker"."""

    cause: Cause
    words: str


class WorkerProcess:
    """A worker from its launch to its end. Belongs to the event loop that launches it.

    ``on_message`` runs on that loop, for every message until :meth:`close`. ``ended`` is set when
    the pipe has ended, which is as soon as the process has, and after its last message.
    """

    def __init__(self, on_message: Callable[[FromWorker], None]) -> None:
        self.ended = asyncio.Event()
        self._on_message = on_message
        self._closed = False
        self._silent = False
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
        with theirs, _ending_signals_blocked():
            command = [sys.executable, "-m", "app.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
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

    def kill_for_silence(self) -> None:
        """End the process by force, because it says nothing any more."""
        self._silent = True
        self.kill()

    def kill(self) -> None:
        """End the process by force."""
        if self._process:
            self._process.kill()
        self.hang_up()  # a process that a driver holds fast would not end its pipe

    async def close(self, patience: float) -> Ending:
        """End the pipe and wait for the process, killing it after ``patience`` seconds."""
        self._closed = True
        return await asyncio.to_thread(self._close, patience)

    def _close(self, patience: float) -> Ending:
        if self._channel:
            self._channel.close()
        if not self._process:
            return Ending("launch", "was never started")
        try:
            return self._ending(self._process.wait(patience))
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            return Ending("silence", f"did not end within {patience:g} seconds and was killed")

    def _ending(self, status: int) -> Ending:
        if self._silent:
            return Ending("silence", "made no progress and was killed")
        if status >= 0:
            return Ending("exit", f"exited with status {status}")
        return Ending("signal", f"was ended by {_signal_in_words(-status)}")

    def _deliver(self, message: FromWorker) -> None:
        if not self._closed:
            self._on_message(message)


@contextmanager
def _ending_signals_blocked() -> Iterator[None]:
    """A child started in here is deaf to Ctrl-C and SIGTERM from its first instruction.

    It inherits the mask, and so comes to ignore both before either can end it; it ends with its
    pipe instead.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has been closed: nobody is left to be told
        loop.call_soon_threadsafe(callback)


def _signal_in_words(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
