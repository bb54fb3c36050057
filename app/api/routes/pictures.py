"""``GET /pictures/{name}``: a picture by the address that an answer has told."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.negotiation import PICTURES
from app.api.schemas import Problem
from app.api.state import service_of
from app.errors import NoSuchPicture

router = APIRouter(tags=["OpenAI"])

_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/pictures/{name}",
    response_class=Response,
    responses={
        200: {"description": "The picture", "content": dict.fromkeys(PICTURES, _FILE)},
        404: {"description": "None, or no longer", "model": Problem},
    },
)
async def get_picture(request: Request, name: str) -> Response:
    """A picture that an answer with `response_format=url` told the address of.

    Whoever knows the address may see it, without a key, until it expires.
    """
    found = service_of(request).pictures.get(name)
    if found is None:
        raise NoSuchPicture("There is no picture at this address: it has expired, or never was")
    picture, seconds = found
    headers = {"cache-control": f"private, max-age={int(seconds)}"}
    return Response(picture.file, media_type=picture.media_type, headers=headers)
