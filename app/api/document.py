"""The OpenAPI document, with what FastAPI cannot say of the answers by itself."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.api import problems, schemas

_REFERENCE = "#/components/schemas/{model}"

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
    """Complete the application's document: media types of problems, the data of ``events``."""
    fastapis = app.openapi
    models = {model for each in events for model in each.values()}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "serialization") for model in sorted(models, key=lambda one: one.__name__)
    ]

    def document() -> dict[str, Any]:
        schema = fastapis()
        _, definitions = models_json_schema(modes, ref_template=_REFERENCE)
        known = schema["components"]["schemas"]
        schema["components"]["schemas"] = definitions["$defs"] | known
        for response in _responses(schema):
            content = response.get("content", {})
            if "/Problem" in str(content.get("application/json")):
                content[problems.MEDIA_TYPE] = content.pop("application/json")
        return schema

    app.openapi = document  # type: ignore[method-assign]


def _responses(schema: dict[str, Any]) -> list[dict[str, Any]]:
    operations = [one for path in schema["paths"].values() for one in path.values()]
    return [one for each in operations for one in each["responses"].values()]
