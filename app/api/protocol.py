"""HTTP/1.1 as uvicorn speaks it over httptools, with bounds on what a connection may send.

httptools is written in C: bodies in chunks of one byte, which would keep a parser in Python busy,
cost little. But it keeps a head, or what follows a body, for as long as it grows.
"""

import json
import logging
from asyncio import TimerHandle, Transport
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES: Final = 2**16
"""Of a request's line and headers together, and of all between two parts of a body."""

LINGER_SECONDS: Final = 5.0
"""For which a client may go on to send a body behind the answer to it: many read the answer only
when they have sent all, or can no more."""

_PIECE_BYTES = 4096
"""Parsed at a time: no more requests than fit in there wait behind the one that is answered."""

logger = logging.getLogger(__name__)


class Protocol(HttpToolsProtocol):
    """One connection.

    Whatever RFC 9112 calls faulty is refused and ends it, since a proxy in front may have read it
    in another way. The state of a request has its connection as ``transport``.
    """

    app_state: dict[str, Any]

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        self._unparsed = bytearray()
        self._in_head, self._body_open, self._over = True, False, False
        self._progressed = False
        self._idle_bytes = 0
        self._refusal: tuple[int, str] | None = None
        self._linger: TimerHandle | None = None
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._unparsed.clear()
        if self._linger:
            self._linger.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if not self._over:
            self._unparsed += data
            self._parse()
        if self._unparsed or self._over:  # what waits has to be answered first
            self.flow.pause_reading()

    def _parse(self) -> None:
        """Parse until a request has to wait for the answer to the one before."""
        while self._unparsed and not (self.pipeline or self._over):
            piece = bytes(self._unparsed[:_PIECE_BYTES])
            del self._unparsed[:_PIECE_BYTES]
            self._parse_piece(piece)

    def _parse_piece(self, piece: bytes) -> None:
        self._progressed = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._stop_parsing()  # to another protocol, which is not spoken: it is answered in this
        except httptools.HttpParserError as error:
            status, detail = self._refusal or (400, f"This is not valid HTTP: {error}")
            self._refuse(status, detail)
        else:
            self._idle_bytes = 0 if self._progressed else self._idle_bytes + len(piece)
            if self._idle_bytes > MAX_HEAD_BYTES:
                status = 414 if self._in_head and not self.headers else 431
                self._refuse(status, f"The head is longer than {MAX_HEAD_BYTES} bytes")

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and no trailer, of which none is asked for
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._refusal = self._fault()
        if self._refusal:
            raise ValueError(self._refusal)
        self._make_relative()
        super().on_headers_complete()
        self._in_head, self._body_open, self._progressed = False, True, True
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._body_open, self._progressed = True, False, True
        if self._linger:
            self._linger.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_open and self.cycle.response_complete:
            self._linger = self.loop.call_later(LINGER_SECONDS, self._end)
        if self._unparsed:
            self.loop.call_soon(self._parse)  # others have their turn before

    def _fault(self) -> tuple[int, str] | None:
        """The status and the words with which this head is refused, if it is."""
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = sum(name == b"host" for name, _ in self.headers)
        version = self.parser.get_http_version()
        if hosts > 1 or (version == "1.1" and not hosts):
            return 400, "A request has one header Host"
        if codings and version != "1.1":
            return 400, "HTTP/1.0 has no Transfer-Encoding"
        if codings not in ([], [b"chunked"]):
            return 501, "The only Transfer-Encoding is chunked"
        return None

    def _make_relative(self) -> None:
        """Take the host out of a target in absolute form, as proxies get it (RFC 9112, 3.2.2)."""
        if self.url.startswith(b"/") or self.url == b"*":
            return
        target = httptools.parse_url(self.url)
        host = b"%s:%d" % (target.host, target.port) if target.port else target.host
        self.headers[:] = [(b"host", host), *(one for one in self.headers if one[0] != b"host")]
        self.url = (target.path or b"/") + (b"?" + target.query if target.query else b"")

    # Ends

    def _refuse(self, status: int, detail: str) -> None:
        """Answer that the connection cannot go on, if nothing has been answered, and end it."""
        logger.debug("Refused with %d: %s", status, detail)
        self._stop_parsing()
        cycle = self.cycle
        if cycle is not None and not (self._body_open or cycle.response_complete):
            cycle.keep_alive = False  # what came before was sound, and is answered first
            return
        if self._body_open and cycle.response_started:
            self._end()
            return
        title = HTTPStatus(status).phrase
        problem: Mapping[str, object] = {"type": "about:blank", "title": title, "status": status}
        body = json.dumps({**problem, "detail": detail}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/problem+json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    def _stop_parsing(self) -> None:
        self._over = True
        self._unparsed.clear()

    def _end(self) -> None:
        self._stop_parsing()
        if not self.transport.is_closing():
            self.transport.abort()
