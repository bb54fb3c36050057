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
_UNTOLD = "/pictures/{name}"
"""A route whose paths are for those who were told them, and not for whoever reads the log."""
_QUIET = ("/healthz", "/readyz", "/metrics", "/page/{path:path}")
"""Routes that would fill the log: what is asked for every few seconds, and a page's dozen files."""
_POLLED = "/variations/{request_id}"
"""The same, where it is only read."""


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
        began, method, status = time.perf_counter(), scope["method"], 0
        # The caller's own id where it is safe to log and send back, else a fresh one.
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        if method == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = request_id
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            # By a stop by force, or by a server whose way it is to say that the client has gone.
            if status or not scope["app"].state.service.draining:
                raise
            stopping = NotReady("The service is stopping", retry_after=RETRY_UNKNOWN)
            await problems.of_error(scope, stopping)(scope, receive, answer)
        except Exception:
            extra = {"request_id": request_id}
            logger.exception("unexpected error in request %s", request_id, extra=extra)
            if status:
                raise
            detail = "The service met an unexpected error; its log has the request_id"
            await problems.problem(scope, 500, detail)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            status = scope["state"].get("ended_as", status)  # of a stream, whose head says 200
            self._record(scope, method, status or problems.CLIENT_GONE, seconds)

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        request_id = scope["state"]["request_id"]
        # The path template that answered, and the path as it was sent, still percent-encoded, so
        # that it cannot forge log lines.
        route = str(getattr(scope.get("route"), "path", "other"))
        path = (scope.get("raw_path") or b"").decode("ascii", "backslashreplace")[:200]
        if route == _UNTOLD:
            path = route
        extra = {
            "request_id": request_id,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
        }
        if trace_id := self.tracing.trace_id(Headers(scope=scope).get("traceparent", "")):
            extra["trace_id"] = trace_id
        if problem := scope["state"].get("problem"):
            extra["problem"] = problem
        self.metrics.http.request(route, status, seconds)
        quiet = route in _QUIET or (route == _POLLED and method in ("GET", "HEAD"))
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d %.3fs%s id=%s",
            *(method, path, status, seconds, f" {problem}" if problem else "", request_id),
            extra=extra,
        )
