"""The page for people at ``GET /``, and the files that it is made of."""

from os import PathLike, stat_result
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.negotiation import JSON, VARY, acceptable

HTML = "text/html"

_FOLDER = Path(__file__).parents[1] / "page"
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Pictures come from files and from the camera's own program, never from the camera itself.
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), usb=()",
    "cache-control": "no-cache",  # kept, and asked about: a new version is seen at once
}


class PageFiles(StaticFiles):
    """The page's files, with a policy that lets them use nothing but each other."""

    def __init__(self) -> None:
        super().__init__(directory=_FOLDER)

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        return response


FILES = PageFiles()

router = APIRouter(include_in_schema=False)


@router.get("/page/{path:path}")
async def page_file(request: Request, path: str) -> Response:
    """One of the page's files, which names them relative to itself, whatever prefix it has."""
    return await FILES.get_response(path, request.scope)


def is_wanted(request: Request) -> bool:
    """The caller would rather have a page than JSON, as browsers say of themselves."""
    accepts = ",".join(request.headers.getlist("accept"))
    return acceptable(accepts, (JSON, HTML))[:1] == [HTML]


async def page(request: Request) -> Response:
    """The page itself."""
    response = await FILES.get_response("index.html", request.scope)
    response.headers.update(VARY)
    return response
