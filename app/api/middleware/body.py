"""The body of a request: refusals by what its head says of it, and bounds while it arrives."""

import asyncio
from collections.abc import Callable

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive

from app.errors import InvalidParameter, TooLarge, TooSlow
from app.settings import Settings


def check_head(connection: HTTPConnection, settings: Settings) -> bytes:
    """The boundary between the form's parts (RFC 7578).

    Raises whatever can be said against the body without reading it.
    """
    encoding = connection.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(
            415, f"The body must not be compressed as {encoding[:40]!r}: send it as it is"
        )
    kind, options = parse_options_header(connection.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        given = kind.decode("latin-1") or "of no stated type"
        raise HTTPException(
            415,
            f"The body must be multipart/form-data, not {given}; with curl: -F image=@photo.jpg",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise HTTPException(
            400,
            "The Content-Type names no boundary: let your HTTP client write that header, which "
            "it does when it is given a form and no Content-Type",
        )
    for name in connection.query_params:
        raise InvalidParameter(
            f"{name[:40]!r} stands in the address; parameters are fields of the form, such as "
            "-F n=2",
            field=name[:40],
        )
    declared = connection.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_upload_bytes:
        raise _too_many_bytes(settings.max_upload_bytes)
    return boundary


def bounded(
    receive: Receive, settings: Settings, boundary: bytes, whole: Callable[[], None]
) -> Receive:
    """The same body, refused where it passes a limit: bytes, declared or not, or time.

    ``whole`` is called once its last byte has arrived, and may refuse it by raising. A body that
    ends before its form does is refused too: its last field would be lost and nobody told. After
    the body there is only the end of the connection to receive, which may take its time.
    """
    limit, seconds, total, arriving = settings.max_upload_bytes, settings.upload_timeout, 0, True
    until = asyncio.get_running_loop().time() + seconds
    closing = b"--" + boundary + b"--"
    tail, closed = b"", False

    async def receive_bounded() -> Message:
        nonlocal total, arriving, tail, closed
        try:
            async with asyncio.timeout_at(until if arriving else None):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"The body did not arrive within {seconds:g} s", field="body") from None
        piece = message.get("body", b"")
        total += len(piece)
        if total > limit:
            raise _too_many_bytes(limit)
        if message["type"] == "http.request" and arriving:
            window = tail + piece  # the mark may lie across two pieces
            closed = closed or closing in window
            tail = window[1 - len(closing) :]
            arriving = message.get("more_body", False)
            if not arriving and not closed:
                raise HTTPException(
                    400,
                    "The body ends before its form does: the closing boundary is missing, so "
                    "something of it is lost; send it again",
                )
            if not arriving:
                whole()
        return message

    return receive_bounded


def _too_many_bytes(limit: int) -> TooLarge:
    return TooLarge(f"The body is too large; at most {limit:,} bytes are accepted", field="body")
