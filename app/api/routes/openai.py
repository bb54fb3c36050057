"""OpenAI's images API for its SDK: ``POST /v1/images/variations`` and ``GET /v1/models``."""

import asyncio
import base64
import math
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from app.api import document, openai
from app.api.middleware.admission import Admission, AdmittedRoute
from app.api.middleware.disconnect import unless_gone
from app.api.negotiation import EVENTS
from app.api.renderers.answer import answer
from app.api.renderers.events import EventStream
from app.api.renderers.openai import Images, check_flagged, render_images
from app.api.renderers.progress import progress
from app.api.routes.stored import placed
from app.api.routes.variations import KEY, TIMEOUT
from app.api.schemas import VariationsResponse
from app.api.state import service_of
from app.api.stored.accept import is_keyed, store
from app.api.stored.job import Job
from app.api.submission import Submitting, check_previews, submit
from app.errors import InvalidParameter, UnknownModel
from app.parameters import ModelInfo, Size
from app.pictures.encode import OutputFormat
from app.wishes import Wishes

router = APIRouter(prefix="/v1", tags=["OpenAI"])

images = APIRouter(prefix="/v1/images", route_class=AdmittedRoute, tags=["OpenAI"])

_ANSWERS: dict[str, Any] = {
    "description": "The pictures; with `stream` as events",
    "content": {EVENTS: document.of_events(document.OPENAI_EVENTS)},
}


@images.post(
    "/variations",
    response_model=openai.ImagesResponse,
    responses=openai.documented() | {200: _ANSWERS},
)
async def create_variation(
    request: Request,
    form: Annotated[openai.VariationForm, Form(media_type="multipart/form-data")],
    _timeout: Annotated[float | SkipJsonSchema[None], TIMEOUT] = None,
    _key: Annotated[str | SkipJsonSchema[None], KEY] = None,
) -> Response:
    """Make variations of an uploaded picture, as OpenAI's clients ask for them."""
    admission: Admission = request.state.admission
    _check_model(form.model, admission.model)
    _check_stream(form)
    check_previews(request, wished=form.partial_images > 0, field="partial_images")
    wishes = _sized(form.wishes(), form.size, admission.model)
    output_format = form.output_format or OutputFormat.PNG
    previews = form.partial_images > 0
    submitting = partial(submit, request, wishes, form.uploads(), previews=previews)
    if is_keyed(request):
        job = await unless_gone(request, store(request, submitting, output_format))
        return await _stored(request, form, job)
    if form.stream:
        submission = await unless_gone(request, submitting())
        told = progress(submission, output_format)
        words = Images(submission.parameters, output_format, form.partial_images)
        admission, failed = submission.admission, submission.failed
        return EventStream(request, told, words, admission=admission, failed=failed)
    return await unless_gone(request, _answer(request, form, submitting, output_format))


async def _stored(request: Request, form: openai.VariationForm, job: Job) -> Response:
    if not form.stream or job.wanted is None:
        answer = await unless_gone(request, job.answer())
        return placed(request, job, await _rendered(request, form, answer))
    words = Images(job.wanted, OutputFormat(job.row.output_format), form.partial_images)
    admission: Admission = request.state.admission
    stream = EventStream(request, job.told(0), words, admission=admission)
    return placed(request, job, stream)


async def _answer(
    request: Request,
    form: openai.VariationForm,
    submitting: Submitting,
    output_format: OutputFormat,
) -> Response:
    submission = await submitting()
    result = await submission.result()
    whole = await asyncio.to_thread(answer, submission, result, output_format)
    response = await _rendered(request, form, whole)
    submission.answered()
    return response


async def _rendered(
    request: Request, form: openai.VariationForm, answer: VariationsResponse
) -> Response:
    check_flagged([one.flagged for one in answer.variations])
    urls = None if form.response_format == "b64_json" else _addresses(request, answer)
    body = await asyncio.to_thread(render_images, answer, urls)
    return Response(body, media_type="application/json")


def _addresses(request: Request, answer: VariationsResponse) -> list[str]:
    """Addresses at which the files are found for a while."""
    admission: Admission = request.state.admission
    files = [base64.b64decode(one.b64_json) for one in answer.variations if one.b64_json]
    media_type = answer.parameters.output_format.media_type
    names = service_of(request).pictures.put(files, media_type, admission.caller)
    return [f"{request.base_url}pictures/{name}" for name in names]


def _check_model(wished: str | None, model: ModelInfo) -> None:
    if wished not in (None, model.id):
        raise UnknownModel(
            f"The model {wished[:80]!r} is not served here: model can be {model.id}, or left out",
            field="model",
        )


def _check_stream(form: openai.VariationForm) -> None:
    if form.partial_images and not form.stream:
        raise InvalidParameter(
            "Previews come only in a stream: with stream=true", field="partial_images"
        )
    if form.stream and form.response_format == "url":
        raise InvalidParameter(
            "A stream brings the data: response_format can be b64_json, or left out",
            field="response_format",
        )


def _sized(wishes: Wishes, wished: str | None, model: ModelInfo) -> Wishes:
    """The wishes with the size that is nearest to the wished one, in shape first, then in area."""
    if wished in (None, "auto"):
        return wishes
    wide, high = map(int, wished.split("x"))

    def distance(size: Size) -> tuple[float, float]:
        width, height = size[0] / wide, size[1] / high
        return abs(math.log(width / height)), abs(math.log(width * height))

    width, height = min(model.sizes, key=distance)
    return replace(wishes, width=width, height=height)


@router.get("/models", response_model=openai.ModelList, responses=openai.documented(401, 503))
async def list_models(request: Request) -> openai.ModelList:
    """The model that is served."""
    return openai.ModelList(data=[_model(request)])


@router.get(
    "/models/{model:path}",
    response_model=openai.ModelObject,
    responses=openai.documented(401, 404, 503),
)
async def get_model(request: Request, model: str) -> openai.ModelObject:
    """The model that is served, by its id."""
    served = _model(request)
    if model != served.id:
        raise UnknownModel(
            f"The model {model[:80]!r} is not served here, but {served.id}", field="model"
        )
    return served


def _model(request: Request) -> openai.ModelObject:
    service = service_of(request)
    service.keys.caller(request.headers)
    model, _ = service.model()
    return openai.ModelObject(id=model.id, created=service.since)
