"""``POST /variations``: a picture in, JSON with its variations out."""

import asyncio
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Form, Header, Security, UploadFile
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from app.api import schemas
from app.api.fingerprints import fingerprint_of
from app.api.middleware.admission import TIMEOUT_HEADER, Admission, AdmittedRoute
from app.api.middleware.disconnect import unless_gone
from app.api.problems import documented
from app.api.renderers import Answer
from app.api.resolving import resolve
from app.api.schemas import VariationsForm, VariationsResponse
from app.api.state import Service, service_of
from app.errors import InvalidParameter
from app.ipc.messages import Stage
from app.pictures import Picture, decode

# Looked at before the body is read; here it only tells the document, and its "Authorize" button.
_bearer = HTTPBearer(auto_error=False, description="One of the service's API keys, if it has any.")

router = APIRouter(route_class=AdmittedRoute, tags=["variations"])


@router.post(
    "/variations",
    response_model=VariationsResponse,
    responses=documented(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
)
async def create_variations(
    request: Request,
    form: Annotated[VariationsForm, Form(media_type="multipart/form-data")],
    _timeout: Annotated[schemas.RequestTimeout, Header(alias=TIMEOUT_HEADER)] = None,
    _key: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
) -> Response:
    """Make variations of an uploaded picture.

    The same picture, parameters and seed give the same variations, whatever else is running.
    """
    admission: Admission = request.state.admission
    admission.passed("upload", admission.accepted)
    await _refuse_repeated_fields(request)
    service = service_of(request)
    try:
        return await unless_gone(request.receive, _make(service, form, admission))
    finally:
        service.tracing.stages(admission.identifier, admission.stages)


async def _refuse_repeated_fields(request: Request) -> None:
    """A field given twice would silently lose one of its values."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f"{name} was given more than once", field=name)


async def _make(service: Service, form: VariationsForm, admission: Admission) -> Response:
    waiting_since = perf_counter()
    parameters = resolve(form, admission.model)
    fingerprint = await asyncio.to_thread(fingerprint_of, form.image.file, parameters)
    foreseen = service.engine.foresee(parameters).finished
    admission.check_reach(foreseen, service.engine.takes(parameters), service.engine.may_try)

    async def picture() -> Picture:
        nonlocal waiting_since
        reading_since = admission.passed("queue", waiting_since)
        pixels = await _picture(service, form.image)
        waiting_since = admission.passed("read", reading_since)
        return pixels

    try:
        done = await service.engine.run(admission.identifier, picture, parameters, fingerprint)
    except BaseException:
        admission.passed("queue", waiting_since)  # or more: what the worker did it cannot tell now
        raise
    # In the worker that has done it. One before it may have died, and all that was waiting too.
    admission.stages.append(Stage("queue", waiting_since, done.stages[0].began))
    admission.stages.extend(done.stages)
    answer = Answer(admission, parameters, form.output_format, done, foreseen)
    response = await asyncio.to_thread(answer.response)
    service.metrics.stages(admission.seconds_by_stage())
    return response


async def _picture(service: Service, upload: UploadFile) -> Picture:
    """The upload's pixels, which are nobody's but the caller's; the file is let go."""

    def read() -> Picture:
        return decode.decode(upload.file.read(), max_pixels=service.settings.max_pixels)

    try:
        return await service.read(read)
    finally:
        await upload.close()
