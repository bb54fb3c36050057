"""The OpenAPI document, with what FastAPI cannot say of the answers by itself."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.api import openai, problems, schemas

_REFERENCE = "#/components/schemas/{model}"
_UNTOLD = "HTTPValidationError"

EVENTS: Mapping[str, type[BaseModel]] = {
    "queued": schemas.Queued,
    "step": schemas.Step,
    "preview": schemas.Preview,
    "picture": schemas.Variation,
    "restarted": schemas.Restarted,
    "done": schemas.Summary,
    "error": schemas.Problem,
}
"""The events of ``POST /variations`` and their data."""

OPENAI_EVENTS: Mapping[str, type[BaseModel]] = {
    "image_edit.partial_image": openai.PartialImage,
    "image_edit.completed": openai.CompletedImage,
    "image_edit.flagged": openai.FlaggedImage,
    "error": openai.ErrorResponse,
}
"""The events of ``POST /v1/images/variations`` and their data."""


def of_events(events: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """The entry of a stream of these events in a response's ``content`` (OpenAPI 3.2, 4.14.4)."""
    return {"itemSchema": {"oneOf": [_event(name, model) for name, model in events.items()]}}


def _event(name: str, model: type[BaseModel]) -> dict[str, Any]:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _REFERENCE.format(model=model.__name__)},
    }
    properties = {"event": {"const": name}, "data": data}
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


def install(app: FastAPI, *events: Mapping[str, type[BaseModel]]) -> None:
    """Complete the application's document: media types of problems, the data of ``events``.

    FastAPI's own answer to a wrong form is never given.
    """
    fastapis = app.openapi
    models = {model for each in events for model in each.values()}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "serialization") for model in sorted(models, key=lambda one: one.__name__)
    ]

    def document() -> dict[str, Any]:
        schema = fastapis()
        _, definitions = models_json_schema(modes, ref_template=_REFERENCE)
        known = schema["components"]["schemas"]
        known.update({k: v for k, v in definitions["$defs"].items() if k not in known})
        for responses in _responses(schema):
            if _UNTOLD in str(responses.get("422")):
                del responses["422"]
            for content in (one.get("content", {}) for one in responses.values()):
                if "/Problem" in str(content.get("application/json")):
                    content[problems.MEDIA_TYPE] = content.pop("application/json")
        for name in (_UNTOLD, "ValidationError"):
            known.pop(name, None)
        return schema

    app.openapi = document  # type: ignore[method-assign]


def _responses(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The responses of each operation, by status."""
    return [one["responses"] for path in schema["paths"].values() for one in path.values()]
