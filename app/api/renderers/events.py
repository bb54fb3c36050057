"""A stream of server-sent events (WHATWG HTML, 9.2), told as they happen."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from app.api import problems, schemas
from app.api.middleware.admission import Admission
from app.api.middleware.disconnect import unless_gone
from app.api.renderers.progress import Told
from app.errors import VariationsError

HEARTBEAT_SECONDS = 15.0
"""Longest silence: proxies end connections on which nothing is said for a minute, say."""

STEP_SECONDS = 0.1
"""At least so long between two events about steps: no eye follows more of them."""

Words = Callable[[Told], bytes]
"""What a stream says of an event; empty where that is nothing."""

T = TypeVar("T")


class EventStream(EventSourceResponse):
    """Says in ``words`` what is ``told``, and the error that it raises, if it does, as the last.

    It ends early where the client goes away, and with an error when an ``admission`` is out of
    time. In log and metrics it has the status that such an error has by itself, and that of a
    client that has gone; ``failed`` is called in these cases.
    """

    def __init__(
        self,
        request: Request,
        told: AsyncGenerator[Told, None],
        words: Words,
        *,
        admission: Admission | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        headers = {"x-accel-buffering": "no"}  # nginx would hold it back
        self._request = request
        self._words = words
        self._admission = admission
        self._failed = failed
        self._said = self._say_all(told)
        super().__init__(self._said, headers=headers)
        request.state.streams = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        try:
            await unless_gone(self._request, self._send_all(send))
        except ClientDisconnect:  # who would read a problem?
            self._failed()
            self._request.state.ended_as = problems.CLIENT_GONE
        # Last, so that who has read it finds the place free that this request had.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._said):
            async for words in self._said:
                await send({"type": "http.response.body", "body": words, "more_body": True})

    async def _say_all(self, told: AsyncGenerator[Told, None]) -> AsyncGenerator[bytes, None]:
        admission = self._admission
        said = time.monotonic()
        try:
            async with aclosing(_heard(told, admission.left if admission else math.inf)) as heard:
                async for one in heard:
                    words = self._words(one) if one else b""
                    silent = one is None or time.monotonic() >= said + HEARTBEAT_SECONDS
                    if words or silent:
                        yield words or KEEPALIVE_COMMENT
                        said = time.monotonic()
        except TimeoutError:
            if admission is None:
                raise
            yield self._error(admission.out_of_time())
        except VariationsError as error:
            yield self._error(error)

    def _error(self, error: VariationsError) -> bytes:
        self._failed()
        problem = problems.counted(self._request, error)
        self._request.state.ended_as = problem.status_code
        return format_sse_event(event="error", data_str=bytes(problem.body).decode())


async def _heard(told: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """What is told, and ``None`` where nothing is for a while.

    Raises :class:`TimeoutError` where it has not ended after ``seconds``.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    async with aclosing(told):
        upcoming = asyncio.ensure_future(anext(told, None))
        try:
            while True:
                pause = max(0.0, min(HEARTBEAT_SECONDS, until - clock()))
                await asyncio.wait((upcoming,), timeout=pause)
                if upcoming.done():
                    if (one := upcoming.result()) is None:
                        return
                    upcoming = asyncio.ensure_future(anext(told, None))
                    yield one
                elif clock() >= until:
                    raise TimeoutError
                else:
                    yield None
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)


class Plainly:
    """The words of ``POST /variations``: every event under its own name, of steps not every one."""

    def __init__(self) -> None:
        self._stepped = 0.0

    def __call__(self, told: Told) -> bytes:
        """One event on the wire."""
        if isinstance(told.data, schemas.Step) and not self._is_due(told.data):
            return b""
        number = None if told.number is None else str(told.number)
        return format_sse_event(event=told.name, data_str=told.data.model_dump_json(), id=number)

    def _is_due(self, step: schemas.Step) -> bool:
        now = time.monotonic()
        if now < self._stepped + STEP_SECONDS and min(step.done) < step.of:
            return False
        self._stepped = now
        return True
