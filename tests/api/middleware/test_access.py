"""Request ids, the access log and what ``/metrics`` counts of HTTP."""

import logging

import httpx
import pytest

from app.engine.lifecycle import WorkerState
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.scrape import eventually, value


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "app.api.middleware.access"]


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "app.api.middleware.access")


def test_every_answer_carries_a_request_id_of_its_own(client: httpx.Client) -> None:
    first, second = (client.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert len(first) == 32


def test_a_callers_own_request_id_is_kept(client: httpx.Client) -> None:
    response = client.get("/healthz", headers={"x-request-id": "trace-1:a.b_C"})
    assert response.headers["x-request-id"] == "trace-1:a.b_C"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "ä".encode()])
def test_a_request_id_that_is_not_sane_is_replaced(client: httpx.Client, given: str) -> None:
    response = client.get("/healthz", headers={"x-request-id": given})
    assert len(response.headers["x-request-id"]) == 32


def test_two_requests_with_the_same_id_do_not_disturb_each_other(
    client: httpx.Client, png: bytes
) -> None:
    headers = {"x-request-id": "same"}
    first, second = (
        client.post("/variations", files={"image": ("a", png)}, headers=headers) for _ in range(2)
    )
    assert first.json()["id"] != second.json()["id"]
    assert first.json()["id"].startswith(first.headers["x-request-id"] + ".")


def test_one_line_is_logged_for_each_request(
    client: httpx.Client, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    response = post(n=2)
    client.get("/missing%0d%0aforged?secret=1")
    eventually(lambda: len(lines(caplog)) == 2)
    posted, missing = lines(caplog)
    assert posted.startswith("POST /variations 200 ")
    assert posted.endswith(f"id={response.headers['x-request-id']}")
    assert missing.startswith("GET /missing%0d%0aforged 404 ")
    assert "secret" not in missing


def test_the_line_of_a_refused_request_says_what_was_wrong(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    post(n=99)
    eventually(lambda: len(lines(caplog)) == 1)
    assert " 422 " in lines(caplog)[0]
    assert " invalid-parameter id=" in lines(caplog)[0]
    assert caplog.records[-1].__dict__["problem"] == "invalid-parameter"


@pytest.mark.parametrize("path", ["/healthz", "/variations/unknown"])
def test_probes_and_polls_are_logged_only_for_debugging(
    path: str, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.get(path)
    eventually(lambda: len(lines(caplog)) == 1)
    assert caplog.records[-1].levelno == logging.DEBUG


def test_what_changes_a_stored_request_is_logged(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete("/variations/unknown")
    eventually(lambda: len(lines(caplog)) == 1)
    assert caplog.records[-1].levelno == logging.INFO


def test_requests_are_counted_by_route_and_status(client: httpx.Client, post: Post) -> None:
    def counts() -> list[float]:
        labels = [("/variations", "200"), ("/variations", "422"), ("other", "404")]
        return [
            value(client, "variations_requests_total", {"route": route, "status": status})
            for route, status in labels
        ]

    before = counts()
    post()
    post(n=0)
    client.get("/one")
    client.get("/another")
    eventually(lambda: counts() == [before[0] + 1, before[1] + 1, before[2] + 2])


def test_a_refused_request_is_counted(client: httpx.Client, post: Post, engine: FakeEngine) -> None:
    refused = {"outcome": "refused"}
    before = value(client, "variations_pictures_total", refused)
    engine.worker = WorkerState("starting", "loading")
    assert post().status_code == 503
    assert value(client, "variations_pictures_total", refused) == before + 1
