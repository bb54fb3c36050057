"""One end of the pipe between the API process and the worker, with its own two threads."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Generic, TypeVar

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class Channel(Generic[Sent, Received]):
    """Messages out without ever blocking the sender, messages in by callback.

    Both callbacks run on the reading thread: ``on_message`` for every message in order, then
    ``on_end`` once, when the other side is gone or this one was closed.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_message: Callable[[Received], None],
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._on_message = on_message
        self._on_end = on_end
        self._outbox: SimpleQueue[Sent | None] = SimpleQueue()
        self._ended = threading.Event()
        self._closing = threading.Lock()
        self._threads = (
            threading.Thread(target=self._read, name="channel-read", daemon=True),
            threading.Thread(target=self._write, name="channel-write", daemon=True),
        )

    def open(self) -> None:
        """Start reading and writing."""
        for thread in self._threads:
            thread.start()

    def send(self, message: Sent) -> None:
        """Write ``message`` as soon as the other side takes it; dropped once the pipe has ended."""
        if not self._ended.is_set():
            self._outbox.put(message)

    def hang_up(self) -> None:
        """End the pipe for both sides at once; what is not written yet is dropped.

        Returns without waiting: ``on_end`` follows on the reading thread.
        """
        # Closing the descriptor would not wake a thread that is blocked in it; this does.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, wait for both threads and release the pipe. Not to be called by a callback."""
        with self._closing:
            self.hang_up()
            for thread in self._threads:
                if thread.ident is not None:  # or it was never started, for lack of anything
                    thread.join()
            self._connection.close()

    def _read(self) -> None:
        try:
            with suppress(EOFError, OSError):
                while True:
                    self._on_message(self._connection.recv())
        finally:
            self._ended.set()
            self._outbox.put(None)
            self._on_end()

    def _write(self) -> None:
        try:
            with suppress(OSError):
                while (message := self._outbox.get()) is not None:
                    self._connection.send(message)
                    del message  # a picture; the next message may be long in coming
        finally:
            self.hang_up()
