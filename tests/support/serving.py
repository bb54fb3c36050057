"""A real server on a real port, in a thread, for the length of a ``with`` block."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from app.api.middleware.connections import Connections
from app.api.server import configuration, listen
from tests.support.fakes import FakeDecoders, FakeEngine

START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Served:
    """A served application, and the fakes behind it."""

    url: str
    engine: FakeEngine
    decoders: FakeDecoders


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, connections: Connections | None) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._connections:
            watch = self._connections.watch(self.server_state.connections)
            self._watch = asyncio.create_task(watch)
        self.listening.set()


@contextmanager
def serving(app: FastAPI, connections: Connections | None = None) -> Iterator[str]:
    """Serve the application; gives its base URL. ``connections`` ends those of slow clients."""
    listener = listen("127.0.0.1", 0)
    server = _Server(configuration(app, app.state.service.settings), connections)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        if not server.listening.wait(START_SECONDS):
            raise TimeoutError("the server did not start")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
