"""Runs the application: one process, one port, a clean end."""

import asyncio
import errno
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from app import logs
from app.api.application import create_app
from app.api.middleware.connections import Connections, most_connections
from app.api.protocol import Protocol
from app.api.state import Service
from app.engine.engine import Engine
from app.pictures.sandbox import Decoders
from app.settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_AGAIN_SECONDS = 0.1
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TELL_AGAIN_SECONDS = 60.0

FAILED_STATUS = 3

logger = logging.getLogger(__name__)


def serve(
    settings: Settings, engine: Engine | None = None, decoders: Decoders | None = None
) -> None:
    """Serve until the first SIGINT, SIGTERM or SIGHUP; what was accepted is still answered.

    A second signal ends it at once. Exits with status 1 where the port cannot be had, and with
    :data:`FAILED_STATUS` where no worker can ever start, unless the settings say to stay.
    ``engine`` and ``decoders`` are as for :func:`create_app`.
    """
    logs.configure(settings.log_level, settings.log_format, "api")
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        sys.exit(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. "
            "Choose another address with VARIATIONS_HOST and VARIATIONS_PORT."
        )
    app = create_app(settings, engine, decoders)
    server = Server(configuration(app, settings), app.state.service)
    server.run(sockets=[listener])
    if server.failed:
        sys.exit(FAILED_STATUS)


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The way in which uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",  # whose errors and whose ends of connections are known here
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application reads them
        ws="none",
        timeout_keep_alive=settings.keep_alive,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, IPv4 or IPv6.

    It is made for TCP by name: asyncio turns Nagle's delay off only for such sockets.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn's server, which owns its signals and says what it is doing.

    The first signal does not end it but lets it drain: the port still listens, so that probes see
    it and newcomers are told, until everything accepted is answered.
    """

    _announcement: asyncio.Task[None]
    _watch: asyncio.Task[None]

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.failed = False
        """It ended since no worker can ever start."""
        self._drain_until: float | None = None
        self._has_said_stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(AcceptErrors())
        await super().startup(sockets)
        for listener in sockets or ():
            logs.say(f"listening on {_url(listener)} (open it in a browser; stop with Ctrl-C)")
        self._announcement = asyncio.create_task(_announce_ready(self.service.engine))
        settings = self.service.settings
        # Uploads may be files on the disk, and each request is watched for its client's end.
        uploads = self.service.limiter.most_uploads
        most = max(1, most_connections() - uploads - 2 * settings.max_queue)
        connections = Connections(settings.upload_timeout, settings.keep_alive, most)
        self._watch = asyncio.create_task(connections.watch(self.server_state.connections))

    async def on_tick(self, counter: int) -> bool:
        state, settings = self.service.engine.state, self.service.settings
        if state.phase == "failed" and settings.on_failure == "exit" and not self.failed:
            logs.say(f"cannot start, so it ends: {state.reason}")
            self.failed = self.should_exit = True
        if self._drain_until is not None:
            self._say_stopping()
            left = self._drain_until - time.monotonic()
            # What is written may have slow readers; they have what is left of the time.
            self.config.timeout_graceful_shutdown = max(1, math.ceil(left))
            self.service.stored.suspend()
            if not self.service.limiter.taken:
                self.should_exit = True
            elif time.monotonic() > self._drain_until:
                logger.error("Not everything was answered within the drain time; stopping")
                self.should_exit = self.force_exit = True
        return await super().on_tick(counter)

    def _say_stopping(self) -> None:
        """Once; not in the signal's handler, which may have interrupted the printing of a line."""
        if self._has_said_stopping:
            return
        self._has_said_stopping = True
        waiting = self.service.limiter.taken
        words = f" once all requests are answered, {waiting} now; a second signal ends it at once"
        logs.say("stopping" + (words if waiting else ""))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._announcement.cancel()
        await super().shutdown(sockets)
        if self.force_exit:
            await self._cut_short()
        self._watch.cancel()

    async def _cut_short(self) -> None:
        """Answer who still waits and end the worker: uvicorn, when forced, leaves both out."""
        waiting = tuple(self.server_state.tasks)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self.lifespan.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals, and leave it at that: uvicorn would raise them again at the end."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self.service.draining = True
        self._drain_until = time.monotonic() + self.service.settings.drain_timeout


class AcceptErrors:
    """Handler of an event loop's errors, which logs once a minute that no file is left to open.

    asyncio tries to accept a connection thousands of times then, pauses for a second, and tells of
    every try. All other errors are handled as without it.
    """

    def __init__(self) -> None:
        self._next, self._untold = 0.0, 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _NO_FILES and "socket" in context):
            loop.default_exception_handler(context)
            return
        self._untold += 1
        if loop.time() >= self._next:
            words = "No connection can be taken: %s (%d times); see `ulimit -n`"
            logger.error(words, error.strerror, self._untold)
            self._next, self._untold = loop.time() + _TELL_AGAIN_SECONDS, 0


async def _announce_ready(engine: Engine) -> None:
    """Print what the worker is doing whenever that changes, until it is ready."""
    said = ""
    while (model := engine.model) is None or engine.state.phase != "ready":
        if engine.state.reason != said:
            said = engine.state.reason
            logs.say(said)
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    revision = f"@{model.revision}" if model.revision else ""
    sizes = ", ".join(f"{width}x{height}" for width, height in model.sizes)
    logs.say(
        f"ready: {model.id}{revision} on {model.device} {model.dtype}, {sizes}, "
        f"at most {engine.max_rows} rows a step"
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
