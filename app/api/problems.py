"""Errors become ``application/problem+json`` (RFC 9457), by one table."""

import difflib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic.fields import FieldInfo
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from app import errors
from app.api.schemas import FieldProblem, Problem
from app.api.state import service_of
from app.errors import VariationsError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

CLIENT_GONE = 499
"""The status by which metrics and log know a client that went away (nginx's number)."""

RETRY_UNKNOWN = 5.0
"""Seconds after which to ask again where nobody can tell."""

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,;]+/)+")

_PROBLEM = "#/components/schemas/Problem"

STATUS: dict[type[VariationsError], int] = {
    VariationsError: 500,
    errors.BadInput: 422,
    errors.NotAPicture: 400,
    errors.FormatNotAllowed: 415,
    errors.TooLarge: 413,
    errors.TooSlow: 408,
    errors.TooCostly: 413,
    errors.DecoderDied: 422,
    errors.InvalidParameter: 422,
    errors.NotAuthorized: 401,
    errors.Refused: 503,
    errors.QueueFull: 429,
    errors.QuotaExceeded: 429,
    errors.DeadlineOutOfReach: 503,
    errors.NotReady: 503,
    errors.Draining: 503,
    errors.DeadlineExceeded: 504,
    errors.GenerationFailed: 500,
    errors.OutOfMemory: 503,
    errors.AttemptsExhausted: 500,
    errors.WorkerUnavailable: 503,
    errors.CheckpointError: 503,
    errors.CheckpointUnavailable: 503,
    errors.DeviceUnavailable: 503,
}

_DESCRIPTIONS = {
    400: "Not a readable picture, or not a readable form",
    401: "The API key is missing or wrong",
    408: "The body took too long to arrive",
    413: "Too many bytes or pixels, or too costly to decode",
    415: "A format that is not accepted",
    422: "A field is missing, unknown or out of its range, or the picture ended its decoder",
    429: "The queue is full, or the key over its quota; ask again after `Retry-After` seconds",
    500: "The pictures could not be made",
    503: "Not ready, or not to be done in time; ask again after `Retry-After` seconds, if any",
    504: "Not finished within the deadline",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of these problems, for a route's ``responses``."""
    return {status: _documentation(status) for status in statuses}


def _documentation(status: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": _DESCRIPTIONS[status], "model": Problem}
    if status in (429, 503):
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        exact = {"description": "The same, exactly.", "schema": {"type": "integer", "minimum": 1}}
        entry["headers"] = {"Retry-After": seconds, "Retry-After-Ms": exact}
    return entry


def install(app: FastAPI, *, keys: bool) -> None:
    """Make the application answer every error with a problem, and its document say so.

    Without ``keys`` the document asks for none.
    """
    app.openapi = _document(app.openapi, keys=keys)  # type: ignore[method-assign]
    app.exception_handler(VariationsError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(ClientDisconnect)(_on_disconnect)


def _document(openapi: Callable[[], dict[str, Any]], *, keys: bool) -> Callable[[], dict[str, Any]]:
    """FastAPI documents a response's model as ``application/json``: name problems rightly."""

    def document() -> dict[str, Any]:
        schema = openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                if not keys:
                    operation.pop("security", None)
                for response in operation["responses"].values():
                    _rename_problem(response.get("content", {}))
        return schema

    return document


def _rename_problem(content: dict[str, Any]) -> None:
    if _PROBLEM in str(content.get("application/json")):
        content[MEDIA_TYPE] = content.pop("application/json")


def unexpected(scope: Scope) -> Response:
    """The answer to an unexpected error; the log holds the rest."""
    return problem(scope, 500, "The service met an unexpected error; its log has the request_id")


def problem(
    scope: Scope,
    status: int,
    detail: str,
    *,
    kind: type[VariationsError] | None = None,
    fields: Sequence[FieldProblem] = (),
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as a response. Without a ``kind`` the status says all (``about:blank``)."""
    body = Problem(
        type=f"urn:variations:{kind.title.lower().replace(' ', '-')}" if kind else "about:blank",
        title=kind.title if kind else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=scope["path"],
        request_id=scope.get("state", {}).get("request_id", ""),
        errors=list(fields),
        retry_after=None if retry_after is None else round(retry_after, 3),
    )
    return Response(
        body.model_dump_json(exclude_none=True),
        status_code=status,
        headers={**_retry_headers(retry_after), **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def of_error(scope: Scope, error: VariationsError) -> Response:
    """An error of the service's own tree as a response."""
    message, fields = without_folders(error.message), []
    if isinstance(error, errors.BadInput):
        message = error.message
        fields = [FieldProblem(field=error.field, message=message)]
    return problem(
        scope,
        STATUS[type(error)],
        message,
        kind=type(error),
        fields=fields,
        retry_after=_retry_after(error),
        headers=_headers(error),
    )


def _retry_after(error: VariationsError) -> float | None:
    """Seconds after which asking again makes sense, where it does."""
    match error:
        case errors.Refused():
            return error.retry_after
        case errors.WorkerUnavailable() | errors.OutOfMemory():
            return RETRY_UNKNOWN
        case _:
            return None


def _retry_headers(seconds: float | None) -> dict[str, str]:
    """Seconds for everybody, milliseconds for the clients that read them first."""
    if seconds is None:
        return {}
    whole, exact = max(1, math.ceil(seconds)), max(1, math.ceil(1000 * seconds))
    return {"retry-after": str(whole), "retry-after-ms": str(exact)}


def _headers(error: VariationsError) -> dict[str, str]:
    match error:
        case errors.AttemptsExhausted():  # clients would try a 500 again, and end more workers
            return {"x-should-retry": "false"}
        case errors.Refused() if error.retry_after is None:
            return {"x-should-retry": "false"}
        case errors.NotAuthorized():
            return {"www-authenticate": "Bearer"}
        case errors.Draining():
            return {"connection": "close"}
        case _:
            return {}


def without_folders(message: str) -> str:
    """A message for whoever runs the service, made fit for everybody: of a path the last part."""
    return _FOLDERS.sub("…/", message)


async def _on_error(request: Request, error: VariationsError) -> Response:
    if isinstance(error, errors.Refused):
        service_of(request).metrics.http.refused(error.reason)
    if error.__cause__ is not None:
        logger.debug("%s", error.message, exc_info=error.__cause__)
    return of_error(request.scope, error)


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    known = _form_fields(request.scope)
    # An optional field is reported twice, as not of its type and as not None.
    wrong = [one for one in error.errors() if one["type"] != "none_required"]
    fields = [_field_problem(one, known) for one in wrong]
    detail = "; ".join(f"{one.field}: {one.message}" for one in fields)
    return problem(request.scope, 422, detail, kind=errors.InvalidParameter, fields=fields)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    match error.__cause__:  # FastAPI makes a 400 of whatever reading the body raises
        case VariationsError() as cause:
            return await _on_error(request, cause)
        case ClientDisconnect() as cause:
            return await _on_disconnect(request, cause)
    return problem(
        request.scope, error.status_code, _http_detail(request, error), headers=error.headers
    )


async def _on_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_GONE)  # nobody reads it; metrics and log do


def _http_detail(request: Request, error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return f"There is nothing at {request.url.path}; /docs shows what there is"
        case 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            return f"{request.method} is not possible here; use {allowed}"
        case _:
            return str(error.detail)


def _form_fields(scope: Scope) -> dict[str, FieldInfo]:
    """The fields of the form that the request's route takes, by name."""
    body = scope["route"].body_field
    model = body.field_info.annotation if body else None
    return getattr(model, "model_fields", {})


def _field_problem(error: Mapping[str, Any], known: Mapping[str, FieldInfo]) -> FieldProblem:
    names = [part for part in error["loc"][1:] if isinstance(part, str)]
    field = names[0] if names else str(error["loc"][0])
    return FieldProblem(field=field, message=_message(field, error, known))


def _message(field: str, error: Mapping[str, Any], known: Mapping[str, FieldInfo]) -> str:
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"There is no such field; {hint}"
    if error["type"] in ("missing", "value_error") and field in known:
        return f"Needed here: {known[field].description}"
    given = error.get("input")
    return f"{error['msg']}, not {given[:40]!r}" if isinstance(given, str) else error["msg"]
