"""The wire models, and the OpenAPI document: it says what is, and its examples work."""

import io
from dataclasses import fields
from typing import Any

import fastapi
import httpx
import pytest
from pydantic import BaseModel, Field, TypeAdapter
from starlette.datastructures import UploadFile

from app.api.schemas import (
    FieldProblem,
    Problem,
    Variation,
    VariationsForm,
    VariationsResponse,
    WireModel,
    limits,
)
from app.parameters import Fit, Scheduler
from app.wishes import Wishes


def form_of(**given: str) -> VariationsForm:
    return VariationsForm.model_validate({"image": [UploadFile(io.BytesIO())], **given})


@pytest.fixture
def operation(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"]["/variations"]["post"]
    return found


@pytest.fixture
def form(client: httpx.Client) -> dict[str, Any]:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    found: dict[str, Any] = schemas["VariationsForm"]
    return found


def test_a_form_asks_for_every_wish_and_nothing_else_but_the_format() -> None:
    names = {field.name for field in fields(Wishes)}
    others = {"image", "output_format", "previews", "webhook"}
    assert set(VariationsForm.model_fields) == names | others


def test_the_fields_of_a_form_become_wishes_of_their_types() -> None:
    form = form_of(n="2", seed="0", guidance_scale="0", scheduler="lms", fit="pad", width="64")
    assert form.wishes() == Wishes(
        n=2, seed=0, guidance_scale=0.0, scheduler=Scheduler.LMS, fit=Fit.PAD, width=64
    )


def test_a_form_with_a_picture_alone_wishes_for_nothing() -> None:
    assert form_of().wishes() == Wishes()


def test_every_status_is_documented_as_a_problem(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert set(responses) == {
        "200", "202", "400", "401", "406", "408", "410", "413", "415", "422", "429", "500", "503",
        "504",
    }  # fmt: skip
    for status, response in responses.items():
        if not status.startswith("2"):
            (media_type,) = response["content"]
            assert media_type == "application/problem+json"
            assert ("Retry-After" in response.get("headers", {})) == (status in ("429", "503"))


def test_the_document_shows_the_form_as_a_browser_can_send_it(
    operation: dict[str, Any], form: dict[str, Any]
) -> None:
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data"}
    assert set(form["properties"]) == set(VariationsForm.model_fields)
    assert form["required"] == ["image"]
    for name, field in form["properties"].items():
        assert "anyOf" not in field, name
        assert "null" not in str(field), name
    assert (form["properties"]["seed"]["minimum"], form["properties"]["seed"]["maximum"]) == (
        0,
        2**32 - 1,
    )


def test_the_examples_of_the_form_work_when_tried(
    client: httpx.Client, form: dict[str, Any], png: bytes
) -> None:
    data = {
        name: str(field["examples"][0])
        for name, field in form["properties"].items()
        if "examples" in field
    }
    assert len(data) >= 6
    response = client.post("/variations", files={"image": ("a.png", png)}, data=data)
    assert response.status_code == 200
    assert len(response.json()["variations"]) == int(data["n"])


@pytest.mark.parametrize("model", [VariationsResponse, Variation, Problem, FieldProblem])
def test_the_examples_of_the_answers_are_valid(model: type[BaseModel]) -> None:
    examples = {
        name: (field, example)
        for name, field in model.model_fields.items()
        for example in field.examples or ()
    }
    assert examples
    for name, (field, example) in examples.items():
        assert (
            TypeAdapter(field.rebuild_annotation()).validate_python(example, strict=True) == example
        ), name


def test_an_answer_is_as_documented(client: httpx.Client, png: bytes) -> None:
    response = client.post("/variations", files={"image": ("a.png", png)})
    assert VariationsResponse.model_validate(response.json(), extra="forbid")


def test_the_limits_of_a_form_are_of_its_numbers_and_of_files_that_may_be_several() -> None:
    class Form(WireModel):
        image: list[fastapi.UploadFile] = Field(min_length=1, max_length=4)
        part: float = Field(default=1, ge=0.5, le=1)
        name: str = ""

    found = {name: (one.minimum, one.maximum) for name, one in limits(Form).items()}
    assert found == {"image": (1, 4), "part": (0.5, 1)}
