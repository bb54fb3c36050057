"""Errors become ``application/problem+json`` (RFC 9457)."""

import difflib
import logging
import math
import re
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
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
from app.api import openai
from app.api.schemas import FieldProblem, Problem
from app.api.state import RETRY_UNKNOWN, service_of
from app.errors import VariationsError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

CLIENT_GONE = 499
"""The status by which metrics and log know a client that went away (nginx's number)."""

_WORDS = re.compile(r"\B(?=[A-Z])")
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,;]+/)+")

_DESCRIPTIONS = {
    400: "Not a readable picture, or not a readable form",
    401: "The API key is missing or wrong",
    406: "`Accept` allows none of the answers there are",
    408: "The body took too long to arrive",
    410: "Cancelled by another call, which named it by its id",
    413: "Too many bytes or pixels, or too costly to decode",
    415: "A format that is not accepted",
    422: "A field is missing, unknown or out of its range, or the picture ended its decoder",
    429: "The queue is full, or the key over its share; ask again after `Retry-After` seconds",
    500: "The pictures could not be made",
    503: "Not ready, or not to be done in time; ask again after `Retry-After` seconds, if any",
    504: "Not finished within the deadline",
}


def documented() -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of all problems, for a route's ``responses``."""
    seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
    exact = {**seconds, "description": "The same, exactly."}
    headers = {"Retry-After": seconds, "Retry-After-Ms": exact}
    return {
        status: {"description": description, "model": Problem}
        | ({"headers": headers} if status in (429, 503) else {})
        for status, description in _DESCRIPTIONS.items()
    }


def install(app: FastAPI) -> None:
    """Make the application answer every error with a problem."""
    app.exception_handler(VariationsError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(ClientDisconnect)(_on_disconnect)
    app.exception_handler(sqlite3.Error)(_on_store_error)


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
    """A problem as a response. Without a ``kind`` the status says all (``about:blank``).

    Where OpenAI's SDK is to read it, it is an error of OpenAI's instead.
    """
    if kind:
        scope.setdefault("state", {})["problem"] = _name(kind)  # for the log
    retry = {}
    if retry_after is not None:  # in milliseconds for the clients that read them first
        retry["retry-after"] = str(max(1, math.ceil(retry_after)))
        retry["retry-after-ms"] = str(max(1, math.ceil(1000 * retry_after)))
    if openai.speaks_openai(scope):
        error = openai.error_response(status, detail, kind, fields)
        body, media_type = error.model_dump_json(), "application/json"
        status = openai.error_status(status)
    else:
        body, media_type = _body(scope, status, detail, kind, fields, retry_after), MEDIA_TYPE
    return Response(
        body, status_code=status, headers={**retry, **(headers or {})}, media_type=media_type
    )


def _body(
    scope: Scope,
    status: int,
    detail: str,
    kind: type[VariationsError] | None,
    fields: Sequence[FieldProblem],
    retry_after: float | None,
) -> str:
    body = Problem(
        type=f"urn:variations:{_name(kind)}" if kind else "about:blank",
        title=kind.title if kind else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=scope["path"],
        request_id=scope.get("state", {}).get("request_id", ""),
        errors=list(fields),
        retry_after=None if retry_after is None else round(retry_after, 3),
    )
    return body.model_dump_json(exclude_none=True)


def _name(kind: type[VariationsError]) -> str:
    return _WORDS.sub("-", kind.__name__).lower()


def of_error(scope: Scope, error: VariationsError) -> Response:
    """An error of the service's own as a response."""
    message, fields = without_folders(error.message), []
    if isinstance(error, errors.BadInput):
        message = error.message
        fields = [FieldProblem(field=error.field, message=message)]
    retry_after, headers = _advice(error)
    return problem(
        scope,
        error.status,
        message,
        kind=type(error),
        fields=fields,
        retry_after=retry_after,
        headers=headers,
    )


def _advice(error: VariationsError) -> tuple[float | None, dict[str, str]]:
    """Seconds after which asking again makes sense, where it does, and further headers."""
    match error:
        case errors.Refused(retry_after=None) | errors.AttemptsExhausted():
            # Clients would try a 500 again by themselves, and end more workers.
            return None, {"x-should-retry": "false"}
        case errors.Draining():
            return error.retry_after, {"connection": "close"}
        case errors.Refused():
            return error.retry_after, {}
        case errors.WorkerUnavailable() | errors.OutOfMemory():
            return RETRY_UNKNOWN, {}
        case errors.NotAuthorized():
            return None, {"www-authenticate": "Bearer"}
        case _:
            return None, {}


def without_folders(message: str) -> str:
    """A message for whoever runs the service, made fit for everybody: of a path the last part."""
    return _FOLDERS.sub("…/", message)


def counted(request: Request, error: VariationsError) -> Response:
    """The same, counted if it is a refusal."""
    if isinstance(error, errors.Refused):
        service_of(request).metrics.http.refused(error.reason)
    if isinstance(error, errors.OwnDeadlineExceeded):
        service_of(request).metrics.http.refused(error.reason, pictures=0)
    if error.__cause__ is not None:
        logger.debug("%s", error.message, exc_info=error.__cause__)
    return of_error(request.scope, error)


async def _on_error(request: Request, error: VariationsError) -> Response:
    return counted(request, error)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    match error.__cause__:  # FastAPI makes a 400 of whatever reading the body raises
        case VariationsError() as cause:
            return counted(request, cause)
        case ClientDisconnect() as cause:
            return await _on_disconnect(request, cause)
        case OSError() as cause:  # a part of the form is kept on the disk while it arrives
            logger.error("An upload could not be kept below %s: %s", _temporary_folder(), cause)
            words = "There is no room for the upload on the service's disk"
            return counted(request, errors.NotReady(words, retry_after=RETRY_UNKNOWN))
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path}; /docs shows what there is"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{request.method} is not possible here; use {allowed}"
    return problem(request.scope, error.status_code, detail, headers=error.headers)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:  # which names those that were tried
        return str(error)


async def _on_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_GONE)  # nobody reads it; metrics and log do


async def _on_store_error(request: Request, error: sqlite3.Error) -> Response:
    logger.error("The store failed: %s", error, exc_info=error)
    words = "The store of requests cannot be read or written now"
    return counted(request, errors.NotReady(words, retry_after=RETRY_UNKNOWN))


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    body = request.scope["route"].body_field
    known = getattr(body.field_info.annotation, "model_fields", {}) if body else {}
    fields = [_field_problem(one, known) for one in error.errors()]
    detail = "; ".join(f"{one.field}: {one.message}" for one in fields)
    kind = errors.InvalidParameter
    return problem(request.scope, kind.status, detail, kind=kind, fields=fields)


def _field_problem(error: Mapping[str, Any], known: Mapping[str, FieldInfo]) -> FieldProblem:
    """What pydantic says of a field, with what would be right; ``known`` are the form's fields."""
    names = [part for part in error["loc"][1:] if isinstance(part, str)]
    field = names[0] if names else str(error["loc"][0])
    message, given = error["msg"], error.get("input")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        message = f"There is no such field; {hint}"
    elif error["type"] in ("missing", "value_error") and field in known:
        message = f"Needed here: {known[field].description}"
    elif isinstance(given, str):
        message += f", not {given[:40]!r}"
    return FieldProblem(field=field, message=message)
