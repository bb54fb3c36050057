"""A generation as a stream of server-sent events (WHATWG HTML, 9.2), told as they happen."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from app.api import problems, schemas
from app.api.middleware.disconnect import unless_gone
from app.api.renderers.answer import summary, variation
from app.api.submission import Submission
from app.engine.generation import (
    Event,
    Failed,
    Finished,
    Generation,
    PictureReady,
    PreviewReady,
    Queued,
    Restarted,
    StepDone,
)
from app.errors import VariationsError
from app.pictures import Picture
from app.pictures.encode import PREVIEW_TYPE, OutputFormat, encode_preview

HEARTBEAT_SECONDS = 15.0
"""Longest silence: proxies end connections on which nothing is said for a minute, say."""

STEP_SECONDS = 0.1
"""At least so long between two events about steps: no eye follows more of them."""

Tell = Callable[[Event], Awaitable[bytes]]
"""Makes of a generation's event what a stream says of it; empty where that is nothing."""


class EventStream(EventSourceResponse):
    """Tells the events of a submission, and its error if it has one as the last.

    Ends early where the client goes away. In log and metrics it has the status that such an error
    has by itself, and that of a client that has gone.
    """

    def __init__(self, request: Request, submission: Submission, tell: Tell) -> None:
        headers = {"x-accel-buffering": "no"}  # nginx would hold it back
        self._request = request
        self._submission = submission
        self._tell = tell
        self._told = self._tell_all()
        super().__init__(self._told, headers=headers)
        request.state.streams = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        try:
            await unless_gone(self._request, self._send_all(send))
        except ClientDisconnect:  # who would read a problem?
            self._submission.failed()
            self._request.state.ended_as = problems.CLIENT_GONE
        # Last, so that who has read it finds the place free that this request had.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._told):
            async for words in self._told:
                await send({"type": "http.response.body", "body": words, "more_body": True})

    async def _tell_all(self) -> AsyncGenerator[bytes, None]:
        admission = self._submission.admission
        said = time.monotonic()
        try:
            async with aclosing(_heard(self._submission.generation, admission.left)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        raise event.error
                    words = await self._tell(event) if event else b""
                    silent = event is None or time.monotonic() >= said + HEARTBEAT_SECONDS
                    if words or silent:
                        yield words or KEEPALIVE_COMMENT
                        said = time.monotonic()
        except TimeoutError:
            yield self._failed(admission.out_of_time())
        except VariationsError as error:
            yield self._failed(error)

    def _failed(self, error: VariationsError) -> bytes:
        self._submission.failed()
        problem = problems.counted(self._request, error)
        self._request.state.ended_as = problem.status_code
        return format_sse_event(event="error", data_str=bytes(problem.body).decode())


async def _heard(generation: Generation, seconds: float) -> AsyncGenerator[Event | None, None]:
    """The events of a generation, and ``None`` where nothing happens for a while.

    Raises :class:`TimeoutError` where it has not ended after ``seconds``.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    async with aclosing(generation.events()) as events:
        upcoming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                pause = max(0.0, min(HEARTBEAT_SECONDS, until - clock()))
                await asyncio.wait((upcoming,), timeout=pause)
                if upcoming.done():
                    if (event := upcoming.result()) is None:
                        return
                    upcoming = asyncio.ensure_future(anext(events, None))
                    yield event
                elif clock() >= until:
                    raise TimeoutError
                else:
                    yield None
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)


class Progress:
    """What the stream of ``POST /variations`` says of each event."""

    def __init__(self, submission: Submission, output_format: OutputFormat) -> None:
        self._submission = submission
        self._output_format = output_format
        self._stepped = 0.0

    async def tell(self, event: Event) -> bytes:
        """One event on the wire."""
        match event:
            case Queued(position, start_in):
                return _event("queued", schemas.Queued(position=position, start_in=start_in))
            case StepDone(done, of):
                return self._step(done, of)
            case PreviewReady(index, picture):
                return _event("preview", await asyncio.to_thread(_preview, index, picture))
            case PictureReady(index, picture):
                return _event("picture", await self._written(index, picture))
            case Restarted():
                return _event("restarted", schemas.Restarted())
            case Finished(result):
                self._submission.worked(result)
                self._submission.answered()
                return _event("done", summary(self._submission, result, self._output_format))
        raise AssertionError(event)

    async def _written(self, index: int, picture: Picture | None) -> schemas.Variation:
        arguments = self._submission, index, picture, self._output_format
        began = time.perf_counter()
        written = await asyncio.to_thread(variation, *arguments)
        self._submission.admission.timeline.passed("write", began)
        return written

    def _step(self, done: tuple[int, ...], of: int) -> bytes:
        now = time.monotonic()
        if now < self._stepped + STEP_SECONDS and min(done) < of:
            return b""
        self._stepped = now
        finish_in = self._submission.generation.finishes_in
        return _event("step", schemas.Step(done=done, of=of, finish_in=finish_in))


def _preview(index: int, picture: Picture) -> schemas.Preview:
    height, width, _ = picture.shape
    return schemas.Preview(
        index=index,
        b64_json=encode_preview(picture),
        media_type=PREVIEW_TYPE,
        width=width,
        height=height,
    )


def _event(name: str, data: BaseModel) -> bytes:
    return format_sse_event(event=name, data_str=data.model_dump_json())
