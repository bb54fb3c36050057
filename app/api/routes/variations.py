"""``POST /variations``: a picture in, JSON with its variations out."""

import asyncio
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Form, Header, Security
from fastapi.security import HTTPBearer
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from app.api.middleware.admission import TIMEOUT_HEADER, Admission, AdmittedRoute
from app.api.middleware.disconnect import unless_gone
from app.api.problems import documented
from app.api.renderers import render_json
from app.api.schemas import VariationsForm, VariationsResponse
from app.api.state import Service, service_of
from app.errors import InvalidParameter
from app.ipc.messages import Stage
from app.parameters import Condition

BEARER = Security(HTTPBearer(auto_error=False, description="One of the service's API keys."))
"""Tells the document of the keys, and gives it a button; admission has looked at them before."""

TIMEOUT = Header(
    alias=TIMEOUT_HEADER,
    json_schema_extra={"exclusiveMinimum": 0},
    description="Seconds the caller will wait; what cannot be done is refused.",
)
"""Tells the document of the header, which admission has read before."""

router = APIRouter(route_class=AdmittedRoute, tags=["variations"])


@router.post(
    "/variations",
    response_model=VariationsResponse,
    responses=documented(),
)
async def create_variations(
    request: Request,
    form: Annotated[VariationsForm, Form(media_type="multipart/form-data")],
    _timeout: Annotated[float | SkipJsonSchema[None], TIMEOUT] = None,
) -> Response:
    """Make variations of an uploaded picture.

    The same picture, parameters and seed give the same variations, whatever else is running.
    """
    admission: Admission = request.state.admission
    timeline = admission.timeline
    timeline.passed("upload", timeline.accepted)
    await _refuse_repeated_fields(request)
    service = service_of(request)
    try:
        return await unless_gone(request, _make(service, form, admission))
    finally:
        service.tracing.stages(admission.request_id, timeline.stages)


async def _refuse_repeated_fields(request: Request) -> None:
    """A field given twice would silently lose one of its values."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f"{name} was given more than once", field=name)


async def _make(service: Service, form: VariationsForm, admission: Admission) -> Response:
    engine, timeline = service.engine, admission.timeline
    arrived = perf_counter()
    parameters = form.wishes().resolve(admission.model)
    # Before the picture is decoded for nothing; how long that takes nobody knows.
    wait = service.decoders.wait(admission.caller)
    service.limiter.expect(admission.request_id, admission.predict(engine, parameters, wait))
    pixels = await service.decoders.decode(
        form.image.read,
        fit=parameters.fit,
        preprocessing=admission.preprocessing,
        caller=admission.caller,
    )
    submitted = timeline.passed("read", arrived)
    condition = Condition.guided(pixels, parameters.guidance_scale)
    # Others may have been submitted meanwhile; between this prediction and the submit none can.
    predicted = submitted - arrived + admission.predict(engine, parameters)
    generation = engine.submit(admission.request_id, parameters, condition, admission.left)
    try:
        result = await generation.result()
    except BaseException:
        timeline.passed("queue", submitted)  # or more: what the worker did it cannot tell now
        raise
    finally:
        generation.cancel()
    # In the worker that has made it. One before it may have died, and all that was waiting too.
    timeline.stages.append(Stage("queue", submitted, result.stages[0].began))
    timeline.stages.extend(result.stages)
    body = await asyncio.to_thread(
        render_json, result, admission, parameters, form.output_format, predicted
    )
    service.metrics.http.stages(timeline.seconds())
    return Response(body, media_type="application/json")
