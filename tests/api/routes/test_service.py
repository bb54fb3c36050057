"""The small pages, and the OpenAPI document: it says what is, and its examples work."""

from typing import Any

import httpx
import pytest

from app.api.schemas import Problem, VariationsForm, VariationsResponse
from tests.support.fakes import FakeEngine, FakeState


@pytest.fixture
def operation(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"]["/variations"]["post"]
    return found


@pytest.fixture
def form(client: httpx.Client) -> dict[str, Any]:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    found: dict[str, Any] = schemas["VariationsForm"]
    return found


def test_the_process_is_healthy_whatever_the_worker_does(
    client: httpx.Client, engine: FakeEngine
) -> None:
    engine.state = FakeState("down", "the worker ended")
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (FakeState("ready", "ready", None), 200),
        (FakeState("starting", "downloading the checkpoint", 0.25), 503),
        (FakeState("down", "the worker ended with signal 9", None), 503),
        (FakeState("failed", "the checkpoint has no safety checker", None), 503),
    ],
)
def test_readiness_tells_the_reason_and_how_far(
    client: httpx.Client, engine: FakeEngine, state: FakeState, status: int
) -> None:
    engine.state = state
    response = client.get("/readyz")
    assert response.status_code == status
    expected = {"status": state.phase, "reason": state.reason, "fraction": state.fraction}
    assert response.json() == expected


def test_the_index_names_the_model_and_where_to_go(
    client: httpx.Client, engine: FakeEngine
) -> None:
    index = client.get("/").json()
    assert index["model"]["id"] == "fake"
    assert index["model"]["sizes"] == [[64, 64], [96, 64]]
    for link in index["links"].values():
        assert client.get(link).status_code in (200, 405), link
    engine.model = None
    assert client.get("/").json()["model"] is None


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE variations_worker_up gauge" in response.text


def test_every_status_of_the_issue_is_documented_as_a_problem(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert set(responses) == {
        "200", "400", "401", "408", "413", "415", "422", "429", "500", "503", "504",
    }  # fmt: skip
    for status, response in responses.items():
        if status != "200":
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


@pytest.mark.parametrize("model", [VariationsResponse, Problem])
def test_the_examples_of_the_answers_are_valid(
    model: type[VariationsResponse | Problem],
) -> None:
    (example,) = model.model_json_schema()["examples"]
    assert model.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_an_answer_is_as_documented(client: httpx.Client, png: bytes) -> None:
    response = client.post("/variations", files={"image": ("a.png", png)})
    assert VariationsResponse.model_validate(response.json(), extra="forbid")
