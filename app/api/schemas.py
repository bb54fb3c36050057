"""The wire models: what a request may carry and what an answer looks like."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import File, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.parameters import (
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    MAX_VARIATIONS,
    Fit,
    ModelInfo,
    Parameters,
    Scheduler,
    Wishes,
)
from app.pictures.decode import FORMATS_IN_WORDS
from app.pictures.encode import OutputFormat

# A header that is left out; the document shows the plain type.
RequestTimeout = (
    Annotated[
        float,
        Field(gt=0, description="Seconds the caller will wait; what cannot be done is refused."),
    ]
    | SkipJsonSchema[None]
)


def _without_null(schema: dict[str, Any]) -> None:
    """A form cannot carry null: the document shows the plain type of an optional field."""
    for field in schema["properties"].values():
        if "anyOf" in field:
            field.update(field.pop("anyOf")[0])
            del field["default"]


class VariationsForm(BaseModel):
    """The form of ``POST /variations``. A field left out or left empty takes its default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null)

    image: Annotated[
        UploadFile,
        File(
            description=f"The picture to make variations of, as a file: {FORMATS_IN_WORDS}. "
            "With curl: -F image=@photo.jpg",
            json_schema_extra={"format": "binary"},  # what makes documentation offer a file
        ),
    ]
    n: int = Field(
        default=1, ge=1, le=MAX_VARIATIONS, description="How many variations.", examples=[4]
    )
    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=MAX_GUIDANCE_SCALE,
        description="How closely to follow the picture; up to 1 means no guidance. "
        "Default: the checkpoint's.",
        examples=[3.0],
    )
    num_inference_steps: int | None = Field(
        default=None,
        ge=1,
        le=MAX_STEPS,
        description="More steps, finer pictures. Default: the checkpoint's.",
        examples=[25],
    )
    scheduler: Scheduler | None = Field(
        default=None,
        description="The solver, by diffusers' name. Default: the checkpoint's.",
        examples=["dpmsolver++"],
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Variation i is made from seed + i. Default: random, and reported.",
        examples=[7],
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="With height, one of the model's sizes as `GET /` lists them.",
    )
    height: int | None = Field(default=None, ge=1, description="See width.")
    fit: Fit | None = Field(
        default=None,
        description="How a picture that is not square becomes so. Default: the checkpoint's.",
        examples=["crop"],
    )
    output_format: OutputFormat = Field(
        default=OutputFormat.PNG, description="File format of the variations.", examples=["png"]
    )

    def wishes(self) -> Wishes:
        """All that the form asks of the model."""
        return Wishes(**self.model_dump(exclude={"image", "output_format"}))


class Model(BaseModel):
    """The checkpoint that made the pictures."""

    id: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class ResolvedParameters(Parameters):
    """Every parameter as it was used, defaults filled in."""

    output_format: OutputFormat


class Variation(BaseModel):
    """One picture; ``b64_json`` is null where the safety checker stopped it."""

    index: int
    seed: int = Field(description="With n=1 and this seed the same picture comes again.")
    b64_json: str | None = Field(
        description="The file in base64; null if flagged.", examples=["iVBORw0KGgo="]
    )
    media_type: str = Field(examples=["image/png"])
    width: int
    height: int
    flagged: bool = Field(description="The safety checker stopped this picture.")


class Timings(BaseModel):
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


class VariationsResponse(BaseModel):
    """The answer of ``POST /variations``."""

    id: str = Field(
        description="Begins with the header x-request-id; in the logs as well.",
        examples=["9b2f6b3c0f6a4d0f8f1c0a0f5a6f7e11.09f1b2c3"],
    )
    created: int = Field(description="Unix time of the answer.", examples=[1790000000])
    model: Model
    parameters: ResolvedParameters
    variations: list[Variation]
    timings: Timings


class FieldProblem(BaseModel):
    """One field and what was wrong with it."""

    field: str = Field(examples=["n"])
    message: str = Field(examples=["Input should be less than or equal to 8, not '9'"])


class Problem(BaseModel):
    """An error, after RFC 9457 (``application/problem+json``)."""

    type: str = Field(
        description="The kind of problem; the same word for the same kind.",
        examples=["urn:variations:invalid-parameter"],
    )
    title: str = Field(examples=["Parameter not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="What was wrong here, and what would be right.",
        examples=["n: Input should be less than or equal to 8, not '9'"],
    )
    instance: str = Field(description="The path that was asked.", examples=["/variations"])
    request_id: str = Field(description="Also in the header x-request-id and in the log.")
    errors: list[FieldProblem] = Field(description="Field by field, where fields were wrong.")
    retry_after: float | None = Field(
        default=None, description="Seconds after which asking again makes sense, where it does."
    )


class Health(BaseModel):
    """The answer of ``GET /healthz``."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """The answer of ``GET /readyz``: the state of the service and the reason for it."""

    status: str = Field(
        description="starting, ready, down, draining, stopped or failed.", examples=["starting"]
    )
    reason: str = Field(examples=["downloading the checkpoint"])
    fraction: float | None = Field(
        description="0–1, where the present stage can tell.", examples=[0.4]
    )


class Index(BaseModel):
    """The answer of ``GET /``."""

    name: str
    version: str
    model: ModelInfo | None = Field(description="Null until the service is ready.")
    links: dict[str, str]
