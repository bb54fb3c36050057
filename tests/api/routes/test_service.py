"""The small pages: index, health, readiness and metrics."""

import httpx
import pytest

from app.engine.lifecycle import WorkerState
from app.settings import Settings
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem


def test_the_process_is_healthy_whatever_the_worker_does(
    client: httpx.Client, engine: FakeEngine
) -> None:
    engine.worker = WorkerState("down", "the worker ended")
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (WorkerState("ready", "ready", None), 200),
        (WorkerState("starting", "downloading the checkpoint", 0.25), 503),
        (WorkerState("down", "the worker ended with signal 9", None), 503),
        (WorkerState("failed", "the checkpoint has no safety checker", None), 503),
    ],
)
def test_readiness_tells_the_reason_and_how_far(
    client: httpx.Client, engine: FakeEngine, state: WorkerState, status: int
) -> None:
    engine.worker = state
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


def test_the_index_tells_what_a_form_may_ask_for(client: httpx.Client) -> None:
    index = client.get("/").json()
    assert index["limits"]["n"] == {"minimum": 1, "maximum": 8}
    assert index["limits"]["guidance_scale"] == {"minimum": 0, "maximum": 25}
    assert index["max_upload_bytes"] == Settings().max_upload_bytes
    assert (index["previews"], index["needs_key"]) == (False, False)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/html", "text/html"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json, text/html", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("image/png", "application/json"),
    ],
)
def test_browsers_get_the_page_and_programs_get_json(
    client: httpx.Client, accept: str, media_type: str
) -> None:
    answer = client.get("/", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["vary"] == "accept"


@pytest.mark.parametrize("path", ["/", "/docs", "/page/main.js", "/page/icon.svg"])
def test_the_page_may_use_nothing_but_its_own_files(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-cache"
    same = {"accept": "text/html", "if-none-match": answer.headers["etag"]}
    assert client.get(path, headers=same).status_code == 304


def test_what_the_page_does_not_have_is_a_problem(client: httpx.Client) -> None:
    assert_problem(client.get("/page/nothing.js"), 404)
    assert_problem(client.get("/page/%2e%2e/routes/page.py"), 404)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_head_is_answered_wherever_get_is(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_is_no_way_to_post(client: httpx.Client) -> None:
    response = client.head("/variations")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE variations_worker_up gauge" in response.text


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=a",
        "application/openmetrics-text; version=1.0.0.0.x",
        "text/plain;version=",
        "text/plain;version=-",
        ";q=",
        ",,;;",
        "application/openmetrics-text;version=0.0.1;escaping=none",
    ],
)
def test_an_odd_accept_header_gets_text(client: httpx.Client, accept: str) -> None:
    response = client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert "# TYPE variations_worker_up gauge" in response.text


def test_open_metrics_are_given_to_whoever_asks(client: httpx.Client) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    response = client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
