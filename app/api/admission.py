"""What stands before a route with a body: refusals that need no body, and bounds on the rest."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive

from app.api.service import Service, service_of
from app.errors import DeadlineExceeded, Refused, TooLarge, VariationsError


class AdmittedRoute(APIRoute):
    """A route whose requests are admitted first: ready, small enough, a slot free, a deadline.

    FastAPI reads the whole form before it calls anything of ours; this stands before that.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            service = service_of(request)
            request.state.accepted = time.perf_counter()
            try:
                _refuse_unread(service, request.headers)
                with service.slots:
                    async with _deadline(service.settings.request_timeout):
                        return await _read_and_answer(answer, _bounded(request, service))
            except Refused:
                service.metrics.refused()
                raise

        return admitted


def _refuse_unread(service: Service, headers: Headers) -> None:
    service.ready_model()
    _check_content_type(headers)
    _check_declared_length(headers, service.settings.max_upload_bytes)


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
    """The same request, whose body is cut where it passes the limit, declared or not."""
    receive = _bounded_receive(request.receive, service.settings.max_upload_bytes)
    return Request(request.scope, receive)


def _bounded_receive(receive: Receive, limit: int) -> Receive:
    total = 0

    async def bounded() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise _too_many_bytes(limit)
        return message

    return bounded


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
