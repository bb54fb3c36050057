"""The wire models: what a request may carry and what an answer looks like."""

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
    Scheduler,
)
from app.pictures.decode import FORMATS_IN_WORDS
from app.pictures.encode import OutputFormat

# Optional fields: the document shows the plain type, since a form cannot carry null.
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)] | SkipJsonSchema[None]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE)] | SkipJsonSchema[None]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)] | SkipJsonSchema[None]
RequestTimeout = (
    Annotated[
        float,
        Field(gt=0, description="Seconds the caller will wait; what cannot be done is refused."),
    ]
    | SkipJsonSchema[None]
)
Pixels = Annotated[int, Field(ge=1)] | SkipJsonSchema[None]


def _without_null_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        if field.get("default", ...) is None:
            del field["default"]


class VariationsForm(BaseModel):
    """The form of ``POST /variations``. A field left out or left empty takes its default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_null_defaults)

    image: Annotated[
        UploadFile,
        File(
            description=f"The picture to make variations of: {FORMATS_IN_WORDS}.",
            json_schema_extra={"format": "binary"},  # what makes documentation offer a file
        ),
    ]
    n: Annotated[
        int, Field(ge=1, le=MAX_VARIATIONS, description="How many variations.", examples=[4])
    ] = 1
    guidance_scale: Annotated[
        Guidance,
        Field(
            description="How closely to follow the picture; up to 1 means no guidance. "
            "Default: the checkpoint's.",
            examples=[3.0],
        ),
    ] = None
    num_inference_steps: Annotated[
        Steps,
        Field(description="More steps, finer pictures. Default: the checkpoint's.", examples=[25]),
    ] = None
    scheduler: Annotated[
        Scheduler | SkipJsonSchema[None],
        Field(
            description="The solver, by diffusers' name. Default: the checkpoint's.",
            examples=["dpmsolver++"],
        ),
    ] = None
    seed: Annotated[
        Seed,
        Field(
            description="Variation i is made from seed + i. Default: random, and reported.",
            examples=[7],
        ),
    ] = None
    width: Annotated[
        Pixels,
        Field(description="With height, one of the model's sizes as `GET /` lists them."),
    ] = None
    height: Annotated[Pixels, Field(description="See width.")] = None
    fit: Annotated[
        Fit | SkipJsonSchema[None],
        Field(
            description="How a picture that is not square becomes so. Default: the checkpoint's.",
            examples=["crop"],
        ),
    ] = None
    output_format: Annotated[
        OutputFormat, Field(description="File format of the variations.", examples=["png"])
    ] = OutputFormat.PNG


class Model(BaseModel):
    """The checkpoint that made the pictures."""

    id: str
    revision: str | None


class ResolvedParameters(BaseModel):
    """Every parameter as it was used, defaults filled in."""

    n: int
    guidance_scale: float
    num_inference_steps: int
    scheduler: Scheduler
    seed: int
    width: int
    height: int
    fit: Fit
    output_format: OutputFormat


class Variation(BaseModel):
    """One picture; ``b64_json`` is null where the safety checker stopped it."""

    index: int
    seed: int = Field(description="With n=1 and this seed the same picture comes again.")
    b64_json: str | None = Field(description="The file in base64; null if flagged.")
    media_type: str
    width: int
    height: int
    flagged: bool = Field(description="The safety checker stopped this picture.")


class Timings(BaseModel):
    """Seconds by stage, and the number of UNet calls the request took part in.

    ``upload`` until the body was there, ``read`` until it was pixels; ``queue`` is all waiting
    before the first step, ``safety`` the check of the pictures, ``write`` the making of files.
    ``total`` runs from acceptance to the end. ``predicted`` is what was foreseen, once the upload
    was there, for all that followed.
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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "5f0d4b6ab1ea4be2a5f6e3a3a4f5c7d8.09f1b2c3",
                    "created": 1790000000,
                    "model": {"id": "demo", "revision": None},
                    "parameters": {
                        "n": 1,
                        "guidance_scale": 3.0,
                        "num_inference_steps": 25,
                        "scheduler": "dpmsolver++",
                        "seed": 7,
                        "width": 512,
                        "height": 512,
                        "fit": "squash",
                        "output_format": "png",
                    },
                    "variations": [
                        {
                            "index": 0,
                            "seed": 7,
                            "b64_json": "iVBORw0KGgo=",
                            "media_type": "image/png",
                            "width": 512,
                            "height": 512,
                            "flagged": False,
                        }
                    ],
                    "timings": {
                        "upload": 0.01,
                        "read": 0.01,
                        "queue": 0.01,
                        "encode": 0.03,
                        "denoise": 1.2,
                        "decode": 0.06,
                        "safety": 0.02,
                        "write": 0.02,
                        "total": 1.4,
                        "predicted": 1.35,
                        "steps": 25,
                    },
                }
            ]
        }
    )

    id: str = Field(description="Begins with the header x-request-id; in the logs as well.")
    created: int = Field(description="Unix time of the answer.")
    model: Model
    parameters: ResolvedParameters
    variations: list[Variation]
    timings: Timings


class FieldProblem(BaseModel):
    """What was wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """An error, after RFC 9457 (``application/problem+json``)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:variations:invalid-parameter",
                    "title": "Parameter not valid",
                    "status": 422,
                    "detail": "n: Input should be less than or equal to 8, not '9'",
                    "instance": "/variations",
                    "request_id": "9b2f6b3c0f6a4d0f8f1c0a0f5a6f7e11",
                    "errors": [
                        {
                            "field": "n",
                            "message": "Input should be less than or equal to 8, not '9'",
                        }
                    ],
                }
            ]
        }
    )

    type: str = Field(description="What kind of problem; the same word for the same kind.")
    title: str
    status: int
    detail: str = Field(description="What was wrong here, and what would be right.")
    instance: str = Field(description="The path that was asked.")
    request_id: str = Field(description="Also in the header x-request-id and in the log.")
    errors: list[FieldProblem] = Field(description="Field by field, where fields were wrong.")
    retry_after: float | None = Field(
        default=None, description="Seconds after which asking again makes sense, where it does."
    )


class Health(BaseModel):
    """The answer of ``GET /healthz``."""

    status: str = Field(examples=["ok"])


class Readiness(BaseModel):
    """The answer of ``GET /readyz``: why it is ready or not, and how far along."""

    status: str = Field(
        description="starting, ready, down, draining, stopped or failed.", examples=["starting"]
    )
    reason: str = Field(examples=["downloading the checkpoint"])
    fraction: float | None = Field(
        description="0–1, where the present stage can tell.", examples=[0.4]
    )


class Index(BaseModel):
    """The answer of ``GET /``."""

    class ServedModel(BaseModel):
        """What the loaded checkpoint is, and what a request that names nothing gets."""

        id: str
        revision: str | None
        guidance_scale: float
        num_inference_steps: int
        scheduler: Scheduler
        fit: Fit
        sizes: list[tuple[int, int]]
        device: str
        dtype: str
        safety_checker: bool

    name: str
    version: str
    model: ServedModel | None = Field(description="Null until the service is ready.")
    links: dict[str, str]
