"""``POST /variations``: a picture in, its variations out, in the form that the caller accepts."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Security
from fastapi.security import HTTPBearer
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from app.api import document
from app.api.middleware.admission import TIMEOUT_HEADER
from app.api.middleware.disconnect import unless_gone
from app.api.negotiation import EVENTS, JSON, PICTURES, VARY, ZIP, NegotiatedRoute, suitable
from app.api.problems import documented
from app.api.renderers.answer import answer, render_json
from app.api.renderers.events import EventStream, Plainly
from app.api.renderers.files import render_picture, render_zip
from app.api.renderers.progress import progress
from app.api.schemas import VariationsForm, VariationsResponse
from app.api.submission import check_previews, submit
from app.errors import InvalidParameter
from app.pictures.encode import OutputFormat

BEARER = Security(HTTPBearer(auto_error=False, description="One of the service's API keys."))
"""Tells the document of the keys, and gives it a button; admission has looked at them before."""

TIMEOUT = Header(
    alias=TIMEOUT_HEADER,
    json_schema_extra={"exclusiveMinimum": 0},
    description="Seconds the caller will wait; what cannot be done is refused.",
)
"""Tells the document of the header, which admission has read before."""

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
        "Server-Timing": {
            "description": "Of a picture by itself: milliseconds by stage.",
            "schema": {"type": "string"},
        },
    },
}

router = APIRouter(route_class=NegotiatedRoute, tags=["variations"])


@router.post(
    "/variations",
    response_model=VariationsResponse,
    responses=documented() | {200: _ANSWERS},
)
async def create_variations(
    request: Request,
    form: Annotated[VariationsForm, Form(media_type="multipart/form-data")],
    _timeout: Annotated[float | SkipJsonSchema[None], TIMEOUT] = None,
) -> Response:
    """Make variations of an uploaded picture.

    The same picture, parameters and seed give the same variations, whatever else is running.
    """
    media_type = suitable(request.state.accepted, form.n, form.output_format)
    output_format = form.output_format or PICTURES.get(media_type, OutputFormat.PNG)
    _check_previews(request, form, streams=media_type == EVENTS)
    if media_type == EVENTS:
        submitting = submit(request, form.wishes(), form.image, previews=form.previews)
        submission = await unless_gone(request, submitting)
        told = progress(submission, output_format)
        admission, failed = submission.admission, submission.failed
        return EventStream(request, told, Plainly(), admission=admission, failed=failed)
    return await unless_gone(request, _answer(request, form, media_type, output_format))


def _check_previews(request: Request, form: VariationsForm, *, streams: bool) -> None:
    if form.previews and not streams:
        raise InvalidParameter(f"Previews come only with Accept: {EVENTS}", field="previews")
    check_previews(request, wished=form.previews, field="previews")


async def _answer(
    request: Request, form: VariationsForm, media_type: str, output_format: OutputFormat
) -> Response:
    submission = await submit(request, form.wishes(), form.image)
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
