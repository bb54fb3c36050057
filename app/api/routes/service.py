"""What there is about the service itself: index, health, readiness, metrics."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app import __version__
from app.api import schemas
from app.api.negotiation import VARY
from app.api.problems import without_folders
from app.api.routes import page
from app.api.state import service_of

_LINKS = {
    "variations": "/variations",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "readiness": "/readyz",
    "health": "/healthz",
    "metrics": "/metrics",
}

router = APIRouter(tags=["service"])


_PAGE = {"schema": {"type": "string"}}


@router.get("/", response_model=schemas.Index, responses={200: {"content": {page.HTML: _PAGE}}})
async def index(request: Request) -> Response:
    """The service's name and version, the model it serves, what a form may ask of it, and links.

    A browser gets the page that people use instead.
    """
    if page.is_wanted(request):
        return await page.page(request)
    service = service_of(request)
    prefix = request.scope.get("root_path", "")
    told = schemas.Index(
        name="variations",
        version=__version__,
        model=service.engine.model,
        limits=schemas.limits(schemas.VariationsForm),
        max_upload_bytes=service.settings.max_upload_bytes,
        previews=service.settings.offers_previews(),
        needs_key=bool(service.settings.api_keys),
        links={name: prefix + path for name, path in _LINKS.items()},
    )
    return Response(told.model_dump_json(), headers=VARY, media_type="application/json")


@router.get("/healthz", response_model=schemas.Health)
async def health() -> schemas.Health:
    """``ok`` as long as this process is alive, with or without a worker."""
    return schemas.Health(status="ok")


@router.get(
    "/readyz",
    response_model=schemas.Readiness,
    responses={503: {"description": "Not ready, and why", "model": schemas.Readiness}},
)
async def readiness(request: Request) -> Response:
    """200 when the worker is ready; else 503, with the reason and how far along it is.

    While a worker is replaced requests are accepted all the same, and wait.
    """
    service = service_of(request)
    state = service.engine.state
    reason = without_folders(state.reason)
    body = schemas.Readiness(status=state.phase, reason=reason, fraction=state.fraction)
    if service.draining:
        body = schemas.Readiness(
            status="draining",
            reason=f"shutting down once {service.limiter.taken} accepted requests are answered",
            fraction=None,
        )
    return JSONResponse(body.model_dump(), status_code=200 if body.status == "ready" else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Everything that is counted, for Prometheus."""
    accept = request.headers.get("accept", "")
    content, media_type = service_of(request).metrics.render(accept)
    return Response(content, headers={"content-type": media_type})
