"""The pages for people: the one at ``GET /``, the API's document, and the files of both."""

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
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What Swagger UI gets by with; ours also never makes markup of text."""
_HEADERS = {
    "content-security-policy": f"{_POLICY}; require-trusted-types-for 'script'",
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


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """The document of the API, to read and to try."""
    response = await FILES.get_response("docs.html", request.scope)
    response.headers["content-security-policy"] = _POLICY
    return response


async def page(request: Request) -> Response:
    """The page itself."""
    response = await FILES.get_response("index.html", request.scope)
    response.headers.update(VARY)
    return response
