"""One worker process and the pipe to it, from launch to exit status."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe

from app.engine.channel import Channel
from app.engine.messages import FromWorker, Start, ToWorker


class WorkerProcess:
    """A worker from its launch to its end. Belongs to the event loop that launches it.

    ``on_message`` runs on that loop, for every message until :meth:`close`. ``ended`` is set when
    the pipe has ended, which is as soon as the process has, and after its last message.
    """

    def __init__(self, on_message: Callable[[FromWorker], None]) -> None:
        self.ended = asyncio.Event()
        self._on_message = on_message
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[ToWorker, FromWorker] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, once launched."""
        return self._process.pid if self._process else None

    def launch(self, start: Start) -> None:
        """Start the process and tell it what to load. Raises :class:`OSError` if none starts."""
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

    async def close(self, patience: float) -> str:
        """End the pipe and wait for the process, killing it after ``patience`` seconds.

        Returns how it ended, as the rest of a sentence that begins with "the worker".
        """
        self._closed = True
        return await asyncio.to_thread(self._close, patience)

    def _close(self, patience: float) -> str:
        if self._channel:
            self._channel.close()
        if not self._process:
            return "was never started"
        try:
            return _exit_in_words(self._process.wait(patience))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"did not end within {patience:g} seconds and was killed"

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


def _exit_in_words(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
