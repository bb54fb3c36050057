"""OpenAI's images API as its SDK speaks it: the fields, the answers, the errors."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from starlette.types import Scope

from app import errors
from app.api.schemas import (
    REPEATED,
    FieldProblem,
    GenerationForm,
    Model,
    NearDuplicate,
    ResolvedParameters,
    Timings,
    WireModel,
)
from app.errors import VariationsError
from app.pictures.encode import OutputFormat

PREFIX = "/v1/"
"""Below it all is as OpenAI's SDK expects it, errors too."""

MAX_PICTURES = 10
MAX_PARTIALS = 3

FLAGGED_NOTE = "The safety checker stopped this picture; another seed makes another one"

_SIZE = r"auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"
_CODES: dict[type[VariationsError], str] = {
    errors.NotAuthorized: "invalid_api_key",
    errors.AllFlagged: "content_policy_violation",
    errors.UnknownModel: "model_not_found",
}
_WORDS = re.compile(r"\B(?=[A-Z])")


class VariationForm(GenerationForm):
    """The form of ``POST /v1/images/variations``: OpenAI's fields, and ours by ``extra_body``."""

    n: int = Field(default=1, ge=1, le=MAX_PICTURES, examples=[2])
    """How many variations."""
    model: str | None = Field(default=None, examples=["demo"])
    """The model that is served, by its id in `GET /v1/models`, or nothing."""
    response_format: Literal["url", "b64_json"] | None = Field(default=None, examples=["b64_json"])
    """`url`, the default: addresses that expire. `b64_json`: the data, which is what a stream
    brings."""
    size: Annotated[str | None, Field(pattern=f"^({_SIZE})$")] = Field(
        default=None, examples=["512x512"]
    )
    """The nearest size that the model makes is taken, and said in the answer."""
    user: str | None = Field(default=None, max_length=512)
    """Taken, and not used."""
    stream: bool = Field(default=False, examples=[False])
    """Answer with events: each picture as soon as it is done."""
    partial_images: int = Field(default=0, ge=0, le=MAX_PARTIALS, examples=[0])
    """Previews of each picture, at most; only in a stream, and where the service offers them."""

    @model_validator(mode="before")
    @classmethod
    def _without_brackets(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The SDK writes ``image[]`` for each item of a list."""
        fields = dict(given)
        for name in REPEATED:
            if (values := fields.pop(f"{name}[]", None)) is not None:
                items = values if isinstance(values, list) else [values]
                fields[name] = [*fields.get(name, ()), *items]
        return fields


class Image(WireModel):
    """One picture, as ``url`` or as ``b64_json``."""

    url: str | None = Field(default=None, examples=["http://localhost:8000/pictures/5m…"])
    b64_json: str | None = None
    index: int
    seed: int
    """With n=1 and this seed the same picture comes again."""
    near_duplicate: NearDuplicate | None = None
    """There where this picture is a near-copy of a training picture, and that is looked for."""


class Flagged(WireModel):
    """A picture that the safety checker stopped, and that is not in the data."""

    index: int
    seed: int
    note: str = Field(examples=[FLAGGED_NOTE])


class ImagesResponse(WireModel):
    """The answer of ``POST /v1/images/variations``; OpenAI's clients keep the fields of ours."""

    created: int = Field(examples=[1790000000])
    data: list[Image]
    size: str = Field(examples=["512x512"])
    """Of the pictures, whichever was asked for."""
    output_format: OutputFormat
    flagged: list[Flagged]
    model: Model
    parameters: ResolvedParameters
    timings: Timings


class _Event(WireModel):
    b64_json: str
    created_at: int
    size: str = Field(examples=["512x512"])
    output_format: OutputFormat
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"
    index: int
    """Which of the pictures."""
    seed: int


class PartialImage(_Event):
    """The event ``image_edit.partial_image``: a preview, a small JPEG. Nothing has checked it."""

    type: Literal["image_edit.partial_image"] = "image_edit.partial_image"
    partial_image_index: int


class TokenDetails(WireModel):
    """Tokens are not counted here."""

    image_tokens: Literal[0] = 0
    text_tokens: Literal[0] = 0


class Usage(WireModel):
    """Tokens are not counted here."""

    input_tokens: Literal[0] = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: Literal[0] = 0
    total_tokens: Literal[0] = 0


class CompletedImage(_Event):
    """The event ``image_edit.completed``: a picture is done."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    usage: Usage = Usage()
    near_duplicate: NearDuplicate | None = None
    """Set where this picture is a near-copy of a training picture, and that is looked for."""


class FlaggedImage(Flagged):
    """The event ``image_edit.flagged``, of ours: the safety checker stopped a picture."""

    type: Literal["image_edit.flagged"] = "image_edit.flagged"


StreamEvent = PartialImage | CompletedImage | FlaggedImage


class ModelObject(WireModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time since which this service runs."""
    owned_by: str = "variations"


class ModelList(WireModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(WireModel):
    """What was wrong, and what would be right."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=["n"])
    code: str | None = Field(examples=["invalid_parameter"])


class ErrorResponse(WireModel):
    """An error as OpenAI's clients read it."""

    error: ErrorDetail


def speaks_openai(scope: Scope) -> bool:
    """A request for a path below :data:`PREFIX`."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).startswith(PREFIX)


def error_status(status: int) -> int:
    """The status with which OpenAI says the same: whatever is wrong with a form is a 400."""
    return 400 if status in (415, 422) else status


def error_response(
    status: int, detail: str, kind: type[VariationsError] | None, fields: Sequence[FieldProblem]
) -> ErrorResponse:
    """An error that was told with this status."""
    too_many = status == HTTPStatus.TOO_MANY_REQUESTS
    if too_many:
        code: str | None = "rate_limit_exceeded"
    elif kind:
        code = _CODES.get(kind) or _WORDS.sub("_", kind.__name__).lower()
    else:
        code = None
    named = "rate_limit_error" if too_many else "invalid_request_error"
    detail_of = ErrorDetail(
        message=detail,
        type="server_error" if status >= 500 else named,
        param=fields[0].field if fields else None,
        code=code,
    )
    return ErrorResponse(error=detail_of)


_DESCRIPTIONS = {
    400: "A field or the picture is not as it should be, or every picture was flagged",
    401: "The API key is missing or wrong",
    404: "No such model",
    408: "The body took too long to arrive",
    413: "Too many bytes or pixels, or too costly to decode",
    429: "The queue is full, or the key over its share; the SDK tries again as it is told",
    500: "The pictures could not be made",
    503: "Not ready, or not to be done in time",
    504: "Not finished within the deadline",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of these errors, of all if none is named."""
    return {
        status: {"description": _DESCRIPTIONS[status], "model": ErrorResponse}
        for status in statuses or _DESCRIPTIONS
    }
