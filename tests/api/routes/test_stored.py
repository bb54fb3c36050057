"""Stored requests over real HTTP, above an engine without a model."""

import asyncio
import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.api.application import create_app
from app.errors import GenerationFailed
from app.settings import Settings
from tests.support.events import events
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.scrape import eventually, value
from tests.support.serving import serving

ASYNC = {"prefer": "respond-async"}


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Few places: a request that kept one would leave none to the next tests."""
    return Settings(max_queue=2, previews="on")


def post(
    client: httpx.Client, png: bytes, headers: dict[str, str] | None = None,
    path: str = "/variations", **fields: object,
) -> httpx.Response:  # fmt: skip
    data = {name: str(value) for name, value in fields.items()}
    return client.post(path, files={"image": ("a.png", png)}, data=data, headers=headers or {})


def stored(client: httpx.Client, png: bytes, **fields: Any) -> str:
    """Where a request is that has been accepted."""
    response = post(client, png, ASYNC, **fields)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def told(client: httpx.Client, location: str, after: str = "") -> list[tuple[str, Any]]:
    with client.stream("GET", f"{location}/events", headers={"last-event-id": after}) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))


def until_ended(client: httpx.Client, location: str) -> dict[str, Any]:
    told(client, location)
    answer: dict[str, Any] = client.get(location).json()
    return answer


def test_who_prefers_not_to_wait_is_told_where_the_request_is(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    response = post(client, png, {"prefer": "wait=5, respond-async"}, n=2)
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    body = response.json()
    location = response.headers["location"]
    assert location == f"/variations/{body['id']}"
    assert (body["status"], body["position"]) == ("queued", 2)
    assert 0 <= body["start_in"] <= 0.5
    assert (body["finish_in"], body["of"], body["result"]) == (1.5, 4, None)
    assert value(client, "variations_stored_requests", {"state": "unfinished"}) == 1
    engine.gate.open()
    ended = until_ended(client, location)
    assert (ended["status"], ended["pictures"], ended["error"]) == ("done", [0, 1], None)
    assert ended["expires"] > ended["created"]
    assert value(client, "variations_stored_requests", {"state": "unfinished"}) == 0
    assert value(client, "variations_stored_bytes") > 0


def test_the_result_is_the_answer_that_waiting_would_have_brought(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({1})
    wish: dict[str, Any] = {"n": 3, "seed": 5, "output_format": "webp"}
    location = stored(client, png, **wish)
    result = until_ended(client, location)["result"]
    waited = post(client, png, **wish).json()
    assert set(result) == set(waited)
    for part in ("model", "parameters", "variations"):
        assert result[part] == waited[part]
    for index in (0, 2):
        picture = client.get(f"{location}/pictures/{index}")
        assert picture.headers["content-type"] == "image/webp"
        assert picture.content == base64.b64decode(waited["variations"][index]["b64_json"])
    for index in (1, 3):
        assert_problem(client.get(f"{location}/pictures/{index}"), 404)


def test_its_events_are_those_of_a_stream_and_go_on_where_a_reader_was(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.preview_gate.held = True
    location = stored(client, png, n=2, previews="true")
    with client.stream("GET", f"{location}/events") as response:
        running = events(response)
        assert [next(running)[0] for _ in range(3)] == ["queued", "step", "preview"]
        engine.preview_gate.open()
        assert [name for name, _ in running][-3:] == ["picture", "picture", "done"]
    afterwards = client.get(f"{location}/events").text
    names = [line[7:] for line in afterwards.splitlines() if line.startswith("event: ")]
    assert names == ["picture", "picture", "done"]
    first, _, last = [line[4:] for line in afterwards.splitlines() if line.startswith("id: ")]
    assert [name for name, _ in told(client, location, first)] == ["picture", "done"]
    over = client.get(f"{location}/events", headers={"last-event-id": last})
    assert (over.status_code, over.content) == (204, b"")
    wrong = client.get(f"{location}/events", headers={"last-event-id": "x"})
    assert assert_problem(wrong, 422)["errors"][0]["field"] == "Last-Event-ID"


def test_a_deleted_request_is_cancelled_and_forgotten(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    location = stored(client, png)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(told, client, location)
        assert client.delete(location).status_code == 204
        assert engine.gone.wait(60)
        name, problem = reading.result()[-1]
        assert (name, problem["status"]) in (("error", 410), ("queued", 0), ("error", 404))
    assert_problem(client.get(location), 404)
    assert_problem(client.delete(location), 404)
    assert value(client, "variations_stored_requests") >= 0
    engine.gate.open()
    done = stored(client, png)
    until_ended(client, done)
    assert client.delete(done).status_code == 204
    assert_problem(client.get(f"{done}/pictures/0"), 404)


def test_a_request_that_failed_says_why(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.error = GenerationFailed("it broke")
    location = stored(client, png)
    *_, (name, problem) = told(client, location)
    assert (name, problem["status"], problem["detail"]) == ("error", 500, "it broke")
    body = client.get(location).json()
    assert body["status"] == "failed"
    assert (body["error"]["status"], body["error"]["detail"]) == (500, "it broke")


def test_stored_requests_hold_places_in_the_queue(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    locations = [stored(client, png) for _ in range(2)]
    assert_problem(post(client, png, ASYNC), 429)
    assert_problem(post(client, png), 429)
    engine.gate.open()
    for location in locations:
        until_ended(client, location)
    assert post(client, png).status_code == 200


def test_what_is_refused_is_not_stored(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    before = value(client, "variations_stored_requests")
    assert_problem(post(client, b"no picture", ASYNC), 400)
    assert_problem(post(client, png, ASYNC, n=9), 422)
    assert_problem(post(client, png, {"idempotency-key": "two words"}), 422)
    assert value(client, "variations_stored_requests") == before


KEYED_FORMS = ["application/json", "text/event-stream", "image/png", "application/zip"]


def test_a_key_finds_the_answer_again_in_every_form(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    key = {"idempotency-key": '"one key"'.replace(" ", "-")}
    first = post(client, png, key, output_format="png")
    assert first.status_code == 200
    for accept in KEYED_FORMS:
        again = post(client, png, {**key, "accept": accept}, output_format="png")
        assert again.headers["content-type"].startswith(accept)
        if accept == "application/json":
            assert again.json() == first.json()
        if accept == "image/png":
            picture = first.json()["variations"][0]["b64_json"]
            assert again.content == base64.b64decode(picture)
    later = post(client, png, {**key, **ASYNC}, output_format="png")
    assert (later.status_code, later.json()["status"]) == (202, "done")
    assert later.json()["result"] == first.json()
    assert len(engine.parameters) == 1


def test_a_key_with_another_form_is_refused(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    key = {"idempotency-key": "two"}
    assert post(client, png, key, seed=1).status_code == 200
    cases: list[tuple[dict[str, Any], bytes]] = [
        ({"seed": 2}, png),
        ({}, png),
        ({"seed": 1}, png + b"\0"),
    ]
    for fields, image in cases:
        problem = assert_problem(post(client, image, key, **fields), 422)
        assert problem["type"] == "urn:variations:key-reused"
        assert problem["errors"][0]["field"] == "Idempotency-Key"
    other = post(client, png, key, path="/v1/images/variations", seed=1)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "key_reused")
    assert value(client, "variations_idempotent_repeats_total", {"met": "other_form"}) == 4


def test_a_repeated_request_joins_the_running_one_though_the_queue_is_full(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    key = {"idempotency-key": "three"}
    with ThreadPoolExecutor(3) as callers:
        first = [callers.submit(post, client, png, key, seed=1)]
        eventually(lambda: len(engine.parameters) == 1)
        other = stored(client, png)
        assert_problem(post(client, png), 429)
        first += [callers.submit(post, client, png, key, seed=1) for _ in range(2)]
        joined = {"met": "joined"}
        eventually(lambda: value(client, "variations_idempotent_repeats_total", joined) >= 2)
        engine.gate.open()
        answers = [one.result() for one in first]
    assert [one.status_code for one in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()
    until_ended(client, other)
    assert len(engine.parameters) == 2


def test_with_a_key_a_client_that_leaves_finds_its_pictures_afterwards(
    client: httpx.Client, url: str, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    key = {"idempotency-key": "four"}
    with httpx.Client(base_url=url, timeout=60) as leaving:
        accept = {**key, "accept": "text/event-stream"}
        files = {"image": ("a.png", png)}
        with leaving.stream("POST", "/variations", files=files, headers=accept) as response:
            assert next(events(response))[0] == "queued"
            place = response.headers["content-location"]
    gone = {"route": "/variations", "status": "499"}
    eventually(lambda: value(client, "variations_requests_total", gone) == 1)
    engine.gate.open()
    assert post(client, png, key).status_code == 200
    assert not engine.gone.is_set()
    assert len(engine.parameters) == 1
    assert client.get(place).json()["status"] == "done"


def test_a_deadline_ends_the_wait_and_not_the_work(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    key = {"idempotency-key": "five"}
    late = post(client, png, {**key, "x-request-timeout": "1.6"})
    assert "it goes on" in assert_problem(late, 504)["detail"]
    engine.gate.open()
    assert post(client, png, key).status_code == 200
    assert len(engine.parameters) == 1


def test_openais_route_knows_keys_too(client: httpx.Client, engine: FakeEngine, png: bytes) -> None:
    key = {"idempotency-key": "six"}
    wish: dict[str, Any] = {"path": "/v1/images/variations", "n": 2, "response_format": "b64_json"}
    first, again = (post(client, png, key, **wish) for _ in range(2))
    assert first.status_code == 200
    assert first.json() == again.json()
    stream = {**wish, "stream": "true"}
    first, again = (post(client, png, {"idempotency-key": "seven"}, **stream) for _ in range(2))
    assert first.text.count("event: image_edit.completed") == 2
    datas = [
        [json.loads(line[6:])["b64_json"] for line in one.text.splitlines() if line[:5] == "data:"]
        for one in (first, again)
    ]
    assert datas[0] == datas[1]
    assert len(engine.parameters) == 2


KEYS = ("a-key-of-some-length", "b-key-of-some-length")


@pytest.fixture
def store_settings(tmp_path: Path) -> Settings:
    return Settings(store=tmp_path / "store.db", api_keys=tuple(map(SecretStr, KEYS)))


@pytest.fixture
def restarted(store_settings: Settings, png: bytes) -> Iterator[tuple[httpx.Client, list[str]]]:
    """A service with what another has left: one request done, one running, one queued."""
    engine = FakeEngine()
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    app = create_app(store_settings, engine, FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        done = stored(client, png, n=2, seed=1)
        until_ended(client, done)
        engine.gate.held = True
        left = [stored(client, png, seed=seed) for seed in (2, 3)]
    app = create_app(store_settings, FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        yield client, [done, *left]


def test_after_a_restart_what_was_accepted_is_made_and_what_was_done_is_there(
    restarted: tuple[httpx.Client, list[str]],
) -> None:
    client, locations = restarted
    ended = [until_ended(client, location) for location in locations]
    assert [one["status"] for one in ended] == ["done"] * 3
    assert [one["result"]["parameters"]["seed"] for one in ended] == [1, 2, 3]
    assert [one["id"] for one in ended] == [one["result"]["id"] for one in ended]
    assert value(client, "variations_pictures_total", {"outcome": "ok"}) == 0  # of the fake
    assert value(client, "variations_stored_requests", {"state": "ended"}) == 3


def test_others_find_nothing(restarted: tuple[httpx.Client, list[str]]) -> None:
    client, locations = restarted
    for location in locations:
        for path in ("", "/events", "/pictures/0"):
            other = {"authorization": f"Bearer {KEYS[1]}"}
            assert_problem(client.get(location + path, headers=other), 404)
            assert_problem(client.get(location + path, headers={"authorization": ""}), 401)
        assert_problem(client.delete(location, headers=other), 404)
        assert client.get(location).status_code == 200


def test_a_store_that_another_service_has_is_refused_by_name(store_settings: Settings) -> None:
    first = create_app(store_settings, FakeEngine(), FakeDecoders())
    second = create_app(store_settings, FakeEngine(), FakeDecoders())

    async def start() -> None:
        await first.state.service.stored.start(first.state.service)
        try:
            await second.state.service.stored.start(second.state.service)
        finally:
            await first.state.service.stored.stop()
            await first.state.service.stored.close()

    with pytest.raises(SystemExit, match=r"store\.db cannot be opened: database is locked"):
        asyncio.run(start())
