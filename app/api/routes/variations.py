"""``POST /variations``: a picture in, its variations out, in the form that the caller accepts."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Security
from fastapi.security import HTTPBearer
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from app.api import document
from app.api.middleware.admission import TIMEOUT_HEADER
from app.api.middleware.disconnect import unless_gone
from app.api.middleware.idempotency import KEY_HEADER
from app.api.negotiation import (
    EVENTS,
    JSON,
    PICTURES,
    RESPOND_ASYNC,
    VARY,
    ZIP,
    NegotiatedRoute,
    prefers_async,
    suitable,
)
from app.api.problems import documented
from app.api.renderers.answer import answer, render_json
from app.api.renderers.events import EventStream, Plainly
from app.api.renderers.files import render_picture, render_zip
from app.api.renderers.progress import progress
from app.api.routes.stored import accepted, last_event, placed
from app.api.schemas import StoredRequest, VariationsForm, VariationsResponse
from app.api.state import service_of
from app.api.stored.accept import is_keyed, store
from app.api.stored.job import Job
from app.api.submission import Submitting, check_previews, submit
from app.errors import InvalidParameter
from app.pictures.encode import OutputFormat

BEARER = Security(HTTPBearer(auto_error=False, description="One of the service's API keys."))
"""Tells the document of the keys, and gives it a button; admission has looked at them before."""

KEY = Header(
    alias=KEY_HEADER,
    max_length=257,
    description="Repeated with this key, the request joins the first one or gets its answer.",
)
"""Tells the document of the header, which admission has read before."""

TIMEOUT = Header(
    alias=TIMEOUT_HEADER,
    json_schema_extra={"exclusiveMinimum": 0},
    description="Seconds the caller will wait; what cannot be done is refused.",
)
"""Tells the document of the header, which admission has read before."""

PREFER = Header(alias="prefer", description="`respond-async`: answer at once with 202.")

_FILE = {"schema": {"type": "string", "format": "binary"}}

_ANSWERS: dict[str, Any] = {
    "description": "The pictures, in the form that `Accept` names",
    "content": {
        EVENTS: document.of_events(document.EVENTS),
        **dict.fromkeys((*PICTURES, ZIP), _FILE),
    },
    "headers": {
        "X-Seed": {"description": "Of a picture by itself.", "schema": {"type": "integer"}},
        "X-Near-Duplicate": {
            "description": "Of a picture by itself that is a near-copy of a training picture: the "
            "score, with the threshold and, if names are told, which one.",
            "schema": {"type": "string", "examples": ['0.931;threshold=0.900;of="00012/034"']},
        },
        "Content-Location": {
            "description": "With an `Idempotency-Key`: where the request is found, and cancelled.",
            "schema": {"type": "string"},
        },
        "Server-Timing": {
            "description": "Of a picture by itself: milliseconds by stage.",
            "schema": {"type": "string"},
        },
    },
}

_ACCEPTED: dict[str, Any] = {
    "description": "Accepted, with `Prefer: respond-async`; found at `Location`",
    "model": StoredRequest,
    "headers": {
        "Location": {"description": "Where it is found.", "schema": {"type": "string"}},
        "Preference-Applied": {"description": "respond-async", "schema": {"type": "string"}},
    },
}

router = APIRouter(route_class=NegotiatedRoute, tags=["variations"])


@router.post(
    "/variations",
    response_model=VariationsResponse,
    responses=documented() | {200: _ANSWERS, 202: _ACCEPTED},
)
async def create_variations(
    request: Request,
    form: Annotated[VariationsForm, Form(media_type="multipart/form-data")],
    _timeout: Annotated[float | SkipJsonSchema[None], TIMEOUT] = None,
    _key: Annotated[str | SkipJsonSchema[None], KEY] = None,
    _prefer: Annotated[str | SkipJsonSchema[None], PREFER] = None,
) -> Response:
    """Make variations of an uploaded picture.

    The same picture, parameters and seed give the same variations, whatever else is running.
    """
    media_type = suitable(request.state.accepted, form.n, form.output_format)
    output_format = form.output_format or PICTURES.get(media_type, OutputFormat.PNG)
    wants_async = media_type == JSON and prefers_async(request.headers)
    _check_previews(request, form, shown=media_type == EVENTS or wants_async)
    _check_webhook(request, form.webhook, told=wants_async)
    submitting = partial(submit, request, form.wishes(), form.uploads(), previews=form.previews)
    if wants_async or is_keyed(request):
        storing = store(request, submitting, output_format, form.webhook)
        job = await unless_gone(request, storing)
        return await _stored(request, job, media_type, wants_async=wants_async)
    if media_type == EVENTS:
        submission = await unless_gone(request, submitting())
        told = progress(submission, output_format)
        admission, failed = submission.admission, submission.failed
        return EventStream(request, told, Plainly(), admission=admission, failed=failed)
    return await unless_gone(request, _answer(submitting, media_type, output_format))


def _check_previews(request: Request, form: VariationsForm, *, shown: bool) -> None:
    if form.previews and not shown:
        raise InvalidParameter(
            f"Previews come only with Accept: {EVENTS}, or with Prefer: {RESPOND_ASYNC}",
            field="previews",
        )
    check_previews(request, wished=form.previews, field="previews")


def _check_webhook(request: Request, url: str | None, *, told: bool) -> None:
    if url is None:
        return
    if not told:
        raise InvalidParameter(
            f"A webhook is told only with Prefer: {RESPOND_ASYNC} and an answer as JSON",
            field="webhook",
        )
    service_of(request).stored.check_webhook(url)


async def _stored(request: Request, job: Job, media_type: str, *, wants_async: bool) -> Response:
    """The answer to a request that is stored: where it is found, or all that becomes of it."""
    if wants_async:
        return await accepted(request, job)
    if media_type == EVENTS:
        told, admission = job.told(last_event(request)), request.state.admission
        return placed(request, job, EventStream(request, told, Plainly(), admission=admission))
    whole = await unless_gone(request, job.answer())
    return placed(request, job, await rendered(whole, media_type))


async def _answer(submitting: Submitting, media_type: str, output_format: OutputFormat) -> Response:
    submission = await submitting()
    result = await submission.result()
    whole = await asyncio.to_thread(answer, submission, result, output_format)
    response = await rendered(whole, media_type)
    submission.answered()
    return response


async def rendered(answer: VariationsResponse, media_type: str) -> Response:
    """An answer in one of the forms that there are."""
    render = {JSON: render_json, ZIP: render_zip}.get(media_type, render_picture)
    body, headers = await asyncio.to_thread(render, answer)
    return Response(body, headers=headers | VARY)
