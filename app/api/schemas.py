"""The wire models: what a request may carry and what an answer looks like."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import File, UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.api.uploads import Uploads
from app.engine.generation import Status
from app.errors import InvalidParameter
from app.parameters import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_STEPS,
    MAX_VARIATIONS,
    Fit,
    Mix,
    ModelInfo,
    Parameters,
    Scheduler,
)
from app.pictures.decode import FORMATS_IN_WORDS
from app.pictures.encode import OutputFormat
from app.wishes import Wishes


class WireModel(BaseModel):
    """Base of the wire models. The text below a field describes it in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _as_written(value: object) -> object:
    """A name in lower case; formats by the end of their files' names too."""
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    return {"jpg": "jpeg"}.get(name, name)


AnyCase = BeforeValidator(_as_written)

REPEATED: Final = ("image", "weight")
"""Fields that may come several times."""

# What makes documentation offer a file.
_File = Annotated[UploadFile, WithJsonSchema({"type": "string", "format": "binary"})]


def _without_empty(values: object) -> object:
    """A list whose only item was left empty was left out."""
    return [] if values == [""] else values


def _without_null(schema: dict[str, Any]) -> None:
    """A form cannot carry null: the document shows the plain type of an optional field."""
    for field in schema["properties"].values():
        if "anyOf" in field:
            field.update(field.pop("anyOf")[0])
            del field["default"]


class GenerationForm(WireModel):
    """The fields of all forms. A field left out or left empty takes its default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null)

    image: Annotated[
        list[_File],
        File(
            description=f"The picture to make variations of, as a file: {FORMATS_IN_WORDS}. "
            f"With curl: -F image=@photo.jpg. Up to {MAX_IMAGES}, the field repeated, are mixed",
            min_length=1,
            max_length=MAX_IMAGES,
        ),
    ]
    weight: Annotated[
        list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], BeforeValidator(_without_empty)
    ] = Field(default=[], max_length=MAX_IMAGES)
    """How much each image counts: as many positive numbers, in the same order. Default: alike."""
    mix: Annotated[Mix | None, AnyCase] = Field(default=None, examples=["embedding"])
    """How several images are mixed: into one embedding, the default, or as rows of their own."""
    negative_image: Annotated[
        _File | None, File(description="A picture to lead away from, with guidance.")
    ] = None
    n: int = Field(default=1, ge=1, le=MAX_VARIATIONS, examples=[4])
    """How many variations."""
    guidance_scale: float | None = Field(default=None, ge=0, le=MAX_GUIDANCE_SCALE, examples=[3.0])
    """How closely to follow the picture; up to 1 means no guidance. Default: the checkpoint's."""
    guidance_start: float | None = Field(default=None, ge=0, le=1, examples=[0.0])
    """The part of the steps, 0–1, from which on there is guidance. Default: 0."""
    guidance_end: float | None = Field(default=None, ge=0, le=1, examples=[0.8])
    """The part of the steps up to which there is guidance; without it they are faster. Default:
    1."""
    strength: float | None = Field(default=None, ge=1 / MAX_STEPS, le=1, examples=[0.8])
    """Start from the (first) picture itself, with so much of the noise: smaller is nearer to it,
    and takes fewer steps. Default: start from noise alone."""
    num_inference_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, examples=[25])
    """More steps, finer pictures. Default: the checkpoint's."""
    scheduler: Annotated[Scheduler | None, AnyCase] = Field(default=None, examples=["dpmsolver++"])
    """The solver, by diffusers' name, one of those that `GET /` lists. Default: the
    checkpoint's."""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, examples=[7])
    """Variation i is made from seed + i. Default: random, and reported."""
    fit: Annotated[Fit | None, AnyCase] = Field(default=None, examples=["crop"])
    """How a picture that is not square becomes so. Default: the checkpoint's."""
    output_format: Annotated[OutputFormat | None, AnyCase] = Field(default=None, examples=["png"])
    """File format of the variations. Default: the one that `Accept` names, or png."""

    def wishes(self) -> Wishes:
        """All that the form asks of the model.

        Raises :class:`InvalidParameter` where there are not as many weights as pictures.
        """
        names = {field.name for field in fields(Wishes)} - {"weight", "negative_image"}
        return Wishes(
            **self.model_dump(include=names),
            weight=self._weights(),
            negative_image=self.negative_image is not None,
        )

    def uploads(self) -> Uploads:
        """Its pictures."""
        return Uploads(self.image, self.negative_image)

    def _weights(self) -> tuple[float, ...]:
        images = len(self.image)
        if self.weight and len(self.weight) != images:
            raise InvalidParameter(
                f"weight was given {len(self.weight)} times, and image {images} times: there must "
                "be one weight for each image, or none",
                field="weight",
            )
        return tuple(self.weight) or (1.0,) * images


class VariationsForm(GenerationForm):
    """The form of ``POST /variations``."""

    width: int | None = Field(default=None, ge=1)
    """With height, one of the model's sizes as `GET /` lists them."""
    height: int | None = Field(default=None, ge=1)
    """See width."""
    previews: bool = Field(default=False, examples=[False])
    """Show what the pictures become while they are made, where the service offers that; only with
    `Accept: text/event-stream` or `Prefer: respond-async`."""
    webhook: str | None = Field(default=None, max_length=2000)
    """Address that is told when the request has ended, where the service allows it; only with
    `Prefer: respond-async`."""


class Model(WireModel):
    """The checkpoint that made the pictures."""

    id: str
    revision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedParameters(Parameters):
    """Every parameter as it was used, defaults filled in."""

    output_format: OutputFormat


class NearDuplicate(WireModel):
    """The training picture that a variation is a near-copy of."""

    score: float = Field(examples=[0.93])
    """How alike they are: the cosine of their descriptors."""
    threshold: float = Field(examples=[0.9])
    """The score from which on a picture is called a near-copy."""
    of: str | None = Field(examples=["00012/000120034"])
    """The training picture's name in its data set; null where the operator does not tell names."""


class Variation(WireModel):
    """One picture; ``b64_json`` is null where the safety checker stopped it."""

    index: int
    seed: int
    """With n=1 and this seed the same picture comes again."""
    b64_json: str | None = Field(examples=["iVBORw0KGgo="])
    """The file in base64; null if flagged."""
    media_type: str = Field(examples=["image/png"])
    width: int
    height: int
    flagged: bool
    """The safety checker stopped this picture."""
    near_duplicate: NearDuplicate | None
    """Set where this picture is a near-copy of a training picture. Null otherwise, and where the
    service does not compare them: then `near_duplicate_threshold` of `GET /` is null too."""


class Timings(WireModel):
    """Seconds by stage, and the number of UNet calls the request took part in.

    ``upload``: the body arrives · ``read``: it becomes the encoder's input · ``queue``: all waiting
    before the first step · ``encode``, ``denoise``, ``decode``: the model works · ``safety``: the
    pictures are checked · ``write``: files are made of them. ``total`` runs from acceptance to the
    end. ``predicted`` is the prediction for all that followed the upload.
    """

    upload: float
    read: float
    queue: float
    encode: float
    denoise: float
    decode: float
    safety: float
    write: float
    total: float
    predicted: float
    steps: int


class Summary(WireModel):
    """All that an answer of ``POST /variations`` tells but the pictures."""

    id: str = Field(examples=["9b2f6b3c0f6a4d0f8f1c0a0f5a6f7e11.09f1b2c3"])
    """Begins with the header x-request-id; in the logs as well."""
    created: int = Field(examples=[1790000000])
    """Unix time of the answer."""
    model: Model
    parameters: ResolvedParameters
    timings: Timings


class VariationsResponse(Summary):
    """The answer of ``POST /variations``."""

    variations: list[Variation]


class Queued(WireModel):
    """The event ``queued``: the request waits for its first step."""

    position: int
    """Requests before it."""
    start_in: float
    """Seconds until its first step, as predicted."""


class Step(WireModel):
    """The event ``step``: told at most ten times a second."""

    done: tuple[int, ...] = Field(examples=[(12, 12)])
    """UNet calls that each picture has behind it."""
    of: int = Field(examples=[25])
    """UNet calls that each picture takes."""
    finish_in: float
    """Seconds until all pictures are done, as predicted."""


class Preview(WireModel):
    """The event ``preview``: what a picture seems to become, small. Nothing has checked it."""

    index: int
    b64_json: str = Field(examples=["/9j/4AA="])
    """The file in base64."""
    media_type: str = Field(examples=["image/jpeg"])
    width: int
    height: int


class Restarted(WireModel):
    """The event ``restarted``: a worker ended, and the pictures are made again from their seeds."""


class StoredRequest(WireModel):
    """A stored request: the answer of ``GET /variations/{id}``, and the data of its webhook."""

    id: str = Field(examples=["9b2f6b3c0f6a4d0f8f1c0a0f5a6f7e11.09f1b2c3"])
    status: Status
    created: int = Field(examples=[1790000000])
    """Unix time of its acceptance."""
    expires: int | None = Field(default=None, examples=[1790086400])
    """Unix time until which its result is kept, once it has ended."""
    position: int | None = None
    """Requests before it, while it is queued."""
    start_in: float | None = None
    """Seconds until its first step, as predicted, while it is queued."""
    finish_in: float | None = None
    """Seconds until all pictures are done, as predicted, while they are not."""
    done: tuple[int, ...] | None = Field(default=None, examples=[(12, 12)])
    """UNet calls that each picture has behind it, while they are made."""
    of: int | None = Field(default=None, examples=[25])
    """UNet calls that each picture takes."""
    pictures: list[int] = Field(examples=[[0, 1]])
    """The pictures that are there, by index."""
    result: VariationsResponse | None = None
    """The answer of `POST /variations`, once it is done."""
    error: "Problem | None" = None
    """Why it failed, if it has."""


class WebhookEvent(WireModel):
    """What a webhook is told (Standard Webhooks)."""

    type: Literal["variations.done", "variations.failed"]
    timestamp: datetime
    data: StoredRequest
    """Without the result, which is at `/variations/{id}`."""


class FieldProblem(WireModel):
    """One field and what was wrong with it."""

    field: str = Field(examples=["n"])
    message: str = Field(examples=["Input should be less than or equal to 8, not '9'"])


class Problem(WireModel):
    """An error, after RFC 9457 (``application/problem+json``)."""

    type: str = Field(examples=["urn:variations:invalid-parameter"])
    """The kind of problem; the same word for the same kind."""
    title: str = Field(examples=["Parameter not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["n: Input should be less than or equal to 8, not '9'"])
    """What was wrong here, and what would be right."""
    instance: str = Field(examples=["/variations"])
    """The path that was asked."""
    request_id: str
    """Also in the header x-request-id and in the log."""
    errors: list[FieldProblem]
    """Field by field, where fields were wrong."""
    retry_after: float | None = None
    """Seconds after which asking again makes sense, where it does."""


class Health(WireModel):
    """The answer of ``GET /healthz``."""

    status: str = Field(examples=["ok"])


class Readiness(WireModel):
    """The answer of ``GET /readyz``: the state of the service and the reason for it."""

    status: str = Field(examples=["starting"])
    """starting, ready, down, draining, stopped or failed."""
    reason: str = Field(examples=["downloading the checkpoint"])
    fraction: float | None = Field(examples=[0.4])
    """0–1, where the present stage can tell."""


class Limits(WireModel):
    """What a number of the form may be, and how many there may be of a file."""

    minimum: int | float
    maximum: int | float


def limits(form: type[WireModel]) -> dict[str, Limits]:
    """The limits of a form's fields, of those that have any."""
    fields = form.model_json_schema()["properties"]
    found = {}
    for name, field in fields.items():
        for least, most in (("minimum", "maximum"), ("minItems", "maxItems")):
            if most in field:
                found[name] = Limits(minimum=field.get(least, 0), maximum=field[most])
    return found


class Index(WireModel):
    """The answer of ``GET /``."""

    name: str
    version: str
    model: ModelInfo | None
    """Null until the service is ready."""
    limits: dict[str, Limits]
    """Of the fields of `POST /variations`."""
    max_upload_bytes: int
    """Most bytes of a form."""
    previews: bool
    """A form may ask for previews."""
    needs_key: bool
    """Forms are taken only with an API key."""
    links: dict[str, str]
