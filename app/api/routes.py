"""The routes. What a handler needs it finds in the :class:`app.api.service.Service`."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Coroutine
from dataclasses import asdict
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Form, UploadFile
from prometheus_client.exposition import choose_encoder
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from app import __version__
from app.api import schemas, uploads
from app.api.admission import AdmittedRoute
from app.api.pictures import encode_base64
from app.api.problems import documented
from app.api.schemas import VariationsForm, VariationsResponse
from app.api.service import Service, service_of
from app.engine.messages import Done, Picture
from app.errors import InvalidParameter
from app.parameters import MAX_SEED, ModelInfo, Parameters

T = TypeVar("T")

pages = APIRouter(tags=["service"])
variations = APIRouter(route_class=AdmittedRoute, tags=["variations"])


@variations.post(
    "/variations",
    response_model=VariationsResponse,
    responses=documented(400, 413, 415, 422, 429, 500, 503, 504),
)
async def create_variations(
    request: Request, form: Annotated[VariationsForm, Form(media_type="multipart/form-data")]
) -> Response:
    """Make variations of an uploaded picture.

    The same picture, parameters and seed give the same variations, whatever else is running.
    """
    await _refuse_repeated_fields(request)
    work = _make(service_of(request), form, accepted=request.state.accepted)
    return await _unless_gone(request.receive, work)


@pages.get("/", response_model=schemas.Index)
async def index(request: Request) -> schemas.Index:
    """What this service is, and what it serves."""
    model = service_of(request).engine.model
    links = ("/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/variations")
    return schemas.Index(
        name="variations",
        version=__version__,
        model=None if model is None else schemas.Index.ServedModel(**asdict(model)),
        links={link.strip("/").partition(".")[0]: link for link in links},
    )


@pages.get("/healthz", response_model=schemas.Health)
async def health() -> schemas.Health:
    """Whether this process is alive; a dead worker does not make it less so."""
    return schemas.Health(status="ok")


@pages.get(
    "/readyz",
    response_model=schemas.Readiness,
    responses={503: {"description": "Not ready, and why", "model": schemas.Readiness}},
)
async def readiness(request: Request) -> Response:
    """Whether a picture posted now would be accepted; if not, why and how far along."""
    state = service_of(request).engine.state
    body = schemas.Readiness(status=state.phase, reason=state.reason, fraction=state.fraction)
    return JSONResponse(body.model_dump(), status_code=200 if state.phase == "ready" else 503)


@pages.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Everything that is counted, for Prometheus."""
    encoder, media_type = choose_encoder(request.headers.get("accept", ""))
    content = encoder(service_of(request).metrics.registry)
    return Response(content, headers={"content-type": media_type})


async def _refuse_repeated_fields(request: Request) -> None:
    """A field given twice would silently lose one of its values."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f"{name} was given more than once", field=name)


async def _unless_gone(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    The body must have been read: from then on, all there is to receive is the disconnect.
    """
    job = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientDisconnect
        return job.result()
    finally:
        job.cancel()
        gone.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _make(service: Service, form: VariationsForm, *, accepted: float) -> Response:
    model = service.ready_model()
    parameters = _resolve(form, model)
    identifier = uuid.uuid4().hex
    # The pixels are nobody's but the engine's, which drops them as soon as it can.
    done = await service.engine.run(identifier, await _picture(service, form.image), parameters)
    resolved = schemas.ResolvedParameters(**asdict(parameters), output_format=form.output_format)
    return await service.in_thread(partial(_render, identifier, model, done, resolved, accepted))


async def _picture(service: Service, upload: UploadFile) -> Picture:
    def read() -> Picture:
        return uploads.decode(upload.file.read(), max_pixels=service.settings.max_pixels)

    try:
        return await service.in_thread(read)
    finally:
        await upload.close()


def _resolve(form: VariationsForm, model: ModelInfo) -> Parameters:
    """Fill in what the form leaves open: the model's defaults, and a random seed."""
    width, height = _size(form, model)
    return Parameters(
        n=form.n,
        guidance_scale=_given(form.guidance_scale, model.guidance_scale),
        num_inference_steps=_given(form.num_inference_steps, model.num_inference_steps),
        scheduler=_given(form.scheduler, model.scheduler),
        seed=_seed(form),
        width=width,
        height=height,
        fit=_given(form.fit, model.fit),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _size(form: VariationsForm, model: ModelInfo) -> tuple[int, int]:
    default_width, default_height = model.sizes[0]
    size = (_given(form.width, default_width), _given(form.height, default_height))
    if size not in model.sizes:
        offered = ", ".join(f"{width}x{height}" for width, height in model.sizes)
        raise InvalidParameter(
            f"Pictures of {size[0]}x{size[1]} are not offered; width x height can be {offered}",
            field="height" if form.width is None else "width",
        )
    return size


def _seed(form: VariationsForm) -> int:
    """The first seed; the last one, seed + n - 1, can be asked for by itself as well."""
    highest = MAX_SEED - (form.n - 1)
    seed = _given(form.seed, secrets.randbelow(highest + 1))
    if seed > highest:
        raise InvalidParameter(
            f"Variation i has seed + i, so with n={form.n} the seed can be at most {highest}",
            field="seed",
        )
    return seed


def _render(
    identifier: str,
    model: ModelInfo,
    done: Done,
    parameters: schemas.ResolvedParameters,
    accepted: float,
) -> Response:
    """Write the files and the JSON around them; runs in a thread."""
    body = VariationsResponse(
        id=identifier,
        created=int(time.time()),
        model=schemas.Model(id=model.id, revision=model.revision),
        parameters=parameters,
        variations=[
            _variation(index, picture, parameters) for index, picture in enumerate(done.pictures)
        ],
        timings=schemas.Timings(**asdict(done.timings), total=time.perf_counter() - accepted),
    )
    return Response(body.model_dump_json(), media_type="application/json")


def _variation(
    index: int, picture: Picture | None, parameters: schemas.ResolvedParameters
) -> schemas.Variation:
    output_format = parameters.output_format
    return schemas.Variation(
        index=index,
        seed=parameters.seed + index,
        b64_json=None if picture is None else encode_base64(picture, output_format),
        media_type=output_format.media_type,
        width=parameters.width,
        height=parameters.height,
        flagged=picture is None,
    )
