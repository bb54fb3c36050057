"""What stands before a route with a body: refusals that need no body, and bounds on the rest."""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.state import Service, service_of
from app.errors import (
    DeadlineExceeded,
    DeadlineOutOfReach,
    InvalidParameter,
    Refused,
    TooLarge,
    TooSlow,
    VariationsError,
)
from app.ipc.messages import Stage, StageName
from app.parameters import ModelInfo

TIMEOUT_HEADER = "x-request-timeout"

_PIECE_BYTES = 2**16

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted request; lives in ``request.state.admission``.

    ``accepted`` is when, by ``perf_counter``, and ``seconds`` how long it may take from then on.
    ``model`` was there to make its pictures, so it is not refused because the service drains now.
    ``stages`` gathers where the time goes in this process.
    """

    identifier: str
    model: ModelInfo
    accepted: float
    seconds: float
    stages: list[Stage] = field(default_factory=list)

    def passed(self, stage: StageName, since: float) -> float:
        """The request was in a stage from ``since`` until now, which is returned."""
        now = time.perf_counter()
        self.stages.append(Stage(stage, since, now))
        return now

    def seconds_by_stage(self) -> dict[StageName, float]:
        """Where the time went so far; no stage is left out."""
        seconds: dict[StageName, float] = dict.fromkeys(get_args(StageName), 0.0)
        for stage in self.stages:
            seconds[stage.name] += stage.ended - stage.began
        return seconds

    def check_reach(self, finished: float, takes: float, may_try: Callable[[], bool]) -> None:
        """Refuse what will be finished only ``finished`` seconds from now, if that is too late.

        With nothing else to do it would take ``takes`` seconds; if that is too long already, there
        is no use in coming back. Otherwise ``may_try`` may say that it is tried all the same.
        """
        left = self.accepted + self.seconds - time.perf_counter()
        if finished <= left or (takes <= left and may_try()):
            return
        never = takes > self.seconds
        raise DeadlineOutOfReach(
            f"The pictures would be done in about {finished:.1f} s, and {left:.1f} s are left of "
            f"the {self.seconds:g} s that this request may take"
            + (f"; with nothing else to do they take {takes:.1f} s" if never else ""),
            retry_after=None if never else finished - left,
        )


class AdmittedRoute(APIRoute):
    """A route whose requests are admitted first: ready, a good key, small enough, a place free.

    FastAPI reads the whole form before it calls anything of ours; this stands before that.
    """

    def get_route_handler(self) -> Handler:
        answer = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            service = service_of(request)
            try:
                return await _admit(service, request, answer)
            except Refused as refusal:
                service.metrics.refused(refusal.reason)
                raise

        return admitted


async def _admit(service: Service, request: Request, answer: Handler) -> Response:
    caller = service.keys.caller(request.headers)
    model = service.model()
    _check_content_type(request.headers)
    _check_declared_length(request.headers, service.settings.max_upload_bytes)
    admission = Admission(
        # One search finds a request in every log; the tail tells apart callers that repeat ids.
        identifier=f"{request.state.request_id}.{uuid.uuid4().hex[:8]}",
        model=model,
        accepted=time.perf_counter(),
        seconds=_seconds(request.headers, service.settings.request_timeout),
    )
    request.state.admission = admission
    with ExitStack() as place:
        place.enter_context(service.slots.place(admission.identifier, caller))
        async with _deadline(admission.seconds):
            response = await _read_and_answer(answer, _bounded(request, service))
        return _Held(response, place.pop_all())


class _Held(Response):
    """A response that keeps the request's place in the queue until its client has taken it.

    It goes out in pieces, each of which waits for the client: a server takes a whole body at once,
    and holds it for as long as it is not read.
    """

    def __init__(self, response: Response, place: ExitStack) -> None:
        self._response = response
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers = self._response.status_code, self._response.raw_headers
        body = memoryview(self._response.body)
        with self._place:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for start in range(0, len(body), _PIECE_BYTES):
                piece = bytes(body[start : start + _PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _seconds(headers: Headers, most: float) -> float:
    """How long the caller will wait, at most as long as the service would work."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidParameter(
            f"{TIMEOUT_HEADER} is a number of seconds above 0, such as 30, not {given[:40]!r}",
            field=TIMEOUT_HEADER,
        )
    return min(seconds, most)


def _check_content_type(headers: Headers) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "multipart/form-data":
        raise HTTPException(
            415,
            f"The body must be multipart/form-data, not {given or 'of no stated type'}; "
            "with curl: -F image=@photo.jpg",
        )


def _check_declared_length(headers: Headers, limit: int) -> None:
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_many_bytes(limit)


def _too_many_bytes(limit: int) -> TooLarge:
    return TooLarge(f"The body is too large; at most {limit:,} bytes are accepted", field="body")


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Cancel what runs inside after ``seconds``, and say so."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineExceeded(
            f"The request did not finish within {seconds:g} s and was stopped"
        ) from None


def _bounded(request: Request, service: Service) -> Request:
    """The same request, whose body is cut where it passes a limit: bytes, declared or not, or time.

    After the body there is only the end of the connection to receive, which may take its time.
    """
    limit, seconds = service.settings.max_upload_bytes, service.settings.upload_timeout
    receive, total, arriving = request.receive, 0, True
    until = asyncio.get_running_loop().time() + seconds

    async def bounded() -> Message:
        nonlocal total, arriving
        try:
            async with asyncio.timeout_at(until if arriving else None):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"The body did not arrive within {seconds:g} s", field="body") from None
        arriving = message.get("more_body", False)
        total += len(message.get("body", b""))
        if total > limit:
            raise _too_many_bytes(limit)
        return message

    return Request(request.scope, bounded)


async def _read_and_answer(
    answer: Callable[[Request], Coroutine[Any, Any, Response]], request: Request
) -> Response:
    """FastAPI turns whatever reading the body raises into a 400 of its own: undo that."""
    try:
        return await answer(request)
    except HTTPException as error:
        cause = error.__cause__
        if isinstance(cause, VariationsError | ClientDisconnect):
            raise cause from None
        raise
