"""The outermost layer, as pure ASGI: request id, metrics, one log line a request, last resort."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.api.state import RETRY_UNKNOWN
from app.errors import NotReady
from app.metrics import Metrics
from app.tracing import Tracing

HEADER = "x-request-id"

logger = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# Answers are data; a page of ours, and FastAPI's own, brings a policy that lets it work.
_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_PROBES = ("/healthz", "/readyz", "/metrics")


class Access:
    """Wraps the application; the only place that sees every answer, to unexpected errors too."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            await self._answer(exchange, receive)
        finally:
            self._record(exchange)

    async def _answer(self, exchange: "_Exchange", receive: Receive) -> None:
        """Run the application; an unexpected error is answered here, without its traceback."""
        scope, send = exchange.scope, exchange.send
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            # By a stop by force, or by a server whose way it is to say that the client has gone.
            draining: bool = scope["app"].state.service.draining
            if exchange.status is not None or not draining:
                raise
            stopping = NotReady("The service is stopping", retry_after=RETRY_UNKNOWN)
            await problems.of_error(scope, stopping)(scope, receive, send)
        except Exception:
            logger.exception(
                "unexpected error in request %s",
                exchange.request_id,
                extra={"request_id": exchange.request_id},
            )
            if exchange.status is not None:
                raise
            await problems.unexpected(scope)(scope, receive, send)

    def _record(self, exchange: "_Exchange") -> None:
        status = exchange.status or problems.CLIENT_GONE
        seconds = time.perf_counter() - exchange.began
        trace_id = self.tracing.trace_id(Headers(scope=exchange.scope).get("traceparent", ""))
        self.metrics.http.request(_route(exchange.scope), status, seconds)
        logger.log(
            logging.DEBUG if exchange.scope["path"] in _PROBES else logging.INFO,
            "%s %s %d %.3fs id=%s",
            exchange.scope["method"],
            _printable_path(exchange.scope),
            status,
            seconds,
            exchange.request_id,
            extra={
                "request_id": exchange.request_id,
                "route": _route(exchange.scope),
                "status": status,
                "seconds": round(seconds, 4),
                **({"trace_id": trace_id} if trace_id else {}),
            },
        )


class _Exchange:
    """One request and what is known of its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.began = time.perf_counter()
        self.status: int | None = None
        self.request_id = _request_id(scope)
        self._send = send
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self.request_id
            for name, value in _SECURITY.items():
                headers.setdefault(name, value)
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is safe to log and send back, else a fresh one."""
    given = Headers(scope=scope).get(HEADER, "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The path template that answered; whatever else was asked is ``other``."""
    return str(getattr(scope.get("route"), "path", "other"))


def _printable_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded, so that it cannot forge log lines."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("ascii", "backslashreplace")[:200]
