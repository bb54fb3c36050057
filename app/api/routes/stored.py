"""``/variations/{id}``: a stored request, its events and its pictures."""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response
from starlette.requests import Request

from app.api import document
from app.api.negotiation import EVENTS, JSON, PICTURES, RESPOND_ASYNC
from app.api.renderers.events import EventStream, Plainly
from app.api.schemas import Problem, StoredRequest
from app.api.state import service_of
from app.api.stored.job import Job
from app.api.stored.view import view
from app.errors import InvalidParameter, NoSuchPicture

LAST_EVENT_HEADER = "last-event-id"

_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The API key is missing or wrong", "model": Problem},
    404: {"description": "No such request of this key, or no longer", "model": Problem},
}

router = APIRouter(prefix="/variations/{request_id}", tags=["stored requests"])


async def accepted(request: Request, job: Job) -> Response:
    """The answer to who prefers not to wait."""
    body = await asyncio.to_thread(view(job).model_dump_json)
    headers = {"location": location(request, job), "preference-applied": RESPOND_ASYNC}
    return Response(body, status_code=202, media_type=JSON, headers=headers)


def location(request: Request, job: Job) -> str:
    """The path at which a stored request is found."""
    return f"{request.scope.get('root_path', '')}/variations/{job.row.id}"


def placed(request: Request, job: Job, response: Response) -> Response:
    """The answer to who waits, which says where the request is found.

    With a key a caller that leaves does not cancel: there it can.
    """
    response.headers["content-location"] = location(request, job)
    return response


def last_event(request: Request) -> int:
    """The number of the last event that a reader has read; 0 where there is none."""
    given = request.headers.get(LAST_EVENT_HEADER, "").strip()
    if not given:
        return 0
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise InvalidParameter(
            f"Last-Event-ID is the id of an event of this stream, not {given[:40]!r}",
            field="Last-Event-ID",
        )
    return int(given)


async def _job(request: Request, request_id: str) -> Job:
    service = service_of(request)
    return await service.stored.find(request_id, service.keys.caller(request.headers))


@router.get("", response_model=StoredRequest, responses=_PROBLEMS)
async def get_request(request: Request, request_id: str) -> Response:
    """A stored request: its place in the queue, its progress, its result."""
    job = await _job(request, request_id)
    body = await asyncio.to_thread(view(job).model_dump_json)
    return Response(body, media_type=JSON)


@router.delete("", status_code=204, responses=_PROBLEMS)
async def delete_request(request: Request, request_id: str) -> Response:
    """Cancel a stored request if it has not ended, and forget it and its result."""
    await service_of(request).stored.cancel(await _job(request, request_id))
    return Response(status_code=204)


@router.get(
    "/events",
    response_class=Response,
    responses=_PROBLEMS
    | {
        200: {
            "description": "The events, from the one behind `Last-Event-ID`",
            "content": {EVENTS: document.of_events(document.EVENTS)},
        },
        204: {"description": "`Last-Event-ID` is that of the last event"},
    },
)
async def get_events(
    request: Request,
    request_id: str,
    _last: Annotated[str | None, Header(alias=LAST_EVENT_HEADER)] = None,
) -> Response:
    """What happens to a stored request, as it happens; also afterwards."""
    job, after = await _job(request, request_id), last_event(request)
    if job.result and after >= job.log.last:
        return Response(status_code=204)  # browsers do not ask again then
    return EventStream(request, job.log.read(after), Plainly())


@router.get(
    "/pictures/{index}",
    response_class=Response,
    responses=_PROBLEMS
    | {200: {"description": "The picture", "content": dict.fromkeys(PICTURES, _FILE)}},
)
async def get_picture(request: Request, request_id: str, index: int) -> Response:
    """A picture of a stored request, as soon as it is there."""
    job = await _job(request, request_id)
    for _, one in job.log.pictures():
        if one.index == index and one.b64_json is not None:
            return Response(base64.b64decode(one.b64_json), media_type=one.media_type)
    raise NoSuchPicture(
        f"There is no picture {index} of this request: not yet, or the safety checker stopped it, "
        "or n was less"
    )
