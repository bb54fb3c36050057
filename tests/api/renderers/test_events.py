"""``POST /variations`` as a stream of events, over real HTTP."""

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from app.api.application import create_app
from app.api.middleware import connections
from app.api.middleware.connections import Connections
from app.api.renderers import events
from app.errors import GenerationFailed, NotReady
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.client import Post
from tests.support.events import ACCEPT, all_events, streaming
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.scrape import eventually, value
from tests.support.serving import serving


@pytest.fixture(scope="module")
def settings() -> Settings:
    """One place: a request that kept it would leave none to the next test."""
    return Settings(max_queue=1, previews="on")


def test_a_stream_tells_the_whole_way_to_the_pictures(
    client: httpx.Client, post: Post, engine: FakeEngine, png: bytes
) -> None:
    engine.predicted = Span(0.5, 1.5)
    wish = {"n": 2, "seed": 5, "scheduler": "heun", "output_format": "webp"}
    queued, *steps, first, second, done = all_events(client, png, **wish)
    assert queued == ("queued", {"position": 2, "start_in": 0.5})
    assert {name for name, _ in steps} == {"step"}
    assert [step["done"] for _, step in steps] == sorted(step["done"] for _, step in steps)
    assert steps[-1][1]["done"] == [7, 7]
    assert {step["of"] for _, step in steps} == {7}
    answer = post(**wish).json()
    assert [first, second] == [("picture", one) for one in answer["variations"]]
    assert done[0] == "done"
    assert done[1]["parameters"] == answer["parameters"]
    assert set(done[1]) == set(answer) - {"variations"}
    assert done[1]["timings"]["denoise"] == pytest.approx(0.3)


def test_a_flagged_picture_is_told_without_its_data(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.flagged = frozenset({0})
    told = [data for name, data in all_events(client, png, n=2) if name == "picture"]
    assert [(one["flagged"], one["b64_json"] is None) for one in told] == [
        (True, True),
        (False, False),
    ]


def test_previews_are_told_to_those_who_wish_them(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    engine.preview_gate.held = True
    with streaming(client, png, previews="true") as told:
        shown = next(data for name, data in told if name == "preview")
        engine.preview_gate.open()
        assert [name for name, _ in told][-1] == "done"
    assert (shown["index"], shown["width"], shown["height"]) == (0, 16, 16)
    with Image.open(io.BytesIO(base64.b64decode(shown["b64_json"]))) as image:
        assert image.get_format_mimetype() == shown["media_type"] == "image/jpeg"
        assert image.size == (16, 16)
        assert abs(int(np.asarray(image).mean()) - 99) < 3
    assert "preview" not in dict(all_events(client, png))


def test_previews_come_only_in_a_stream(post: Post, engine: FakeEngine) -> None:
    [error] = assert_problem(post(previews="true"), 422)["errors"]
    assert error["field"] == "previews"
    assert "Accept: text/event-stream" in error["message"]
    assert not engine.parameters


def test_what_the_safety_checker_may_stop_is_not_shown_unless_the_operator_says_so(
    png: bytes,
) -> None:
    app = create_app(Settings(), FakeEngine(), FakeDecoders())
    with serving(app) as url:
        files, data = {"image": ("a.png", png)}, {"previews": "true"}
        response = httpx.post(f"{url}/variations", files=files, data=data, headers=ACCEPT)
    assert "VARIATIONS_PREVIEWS" in assert_problem(response, 422)["detail"]


def test_what_is_refused_before_the_stream_keeps_its_status(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    for fields, image, status in (({"n": "9"}, png, 422), ({}, b"no picture", 400)):
        files = {"image": ("a.png", image)}
        response = client.post("/variations", files=files, data=fields, headers=ACCEPT)
        assert_problem(response, status)
    engine.error = NotReady("not now", retry_after=3.0)
    response = client.post("/variations", files={"image": ("a.png", png)}, headers=ACCEPT)
    assert assert_problem(response, 503)["retry_after"] == 3.0


def test_an_error_after_the_beginning_is_the_last_event(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    counted = {"route": "/variations", "status": "500"}
    before = value(client, "variations_requests_total", counted)
    engine.error = GenerationFailed("it broke")
    *_, (name, problem) = all_events(client, png)
    assert name == "error"
    assert (problem["status"], problem["detail"]) == (500, "it broke")
    assert problem["instance"] == "/variations"
    assert problem["request_id"]
    eventually(lambda: value(client, "variations_requests_total", counted) == before + 1)


def test_who_runs_out_of_the_own_time_is_told(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    counted = {"reason": "own_deadline"}
    before = value(client, "variations_refusals_total", counted)
    engine.predicted = Span(0.0, 0.1)
    engine.gate.held = True
    files, headers = {"image": ("a.png", png)}, {**ACCEPT, "x-request-timeout": "0.5"}
    response = client.post("/variations", files=files, headers=headers)
    assert response.status_code == 200
    assert response.text.count("event: ") == 2
    assert 'event: error\ndata: {"type":"urn:variations:own-deadline-exceeded"' in response.text
    assert engine.gone.wait(60)
    assert value(client, "variations_refusals_total", counted) == before + 1


def test_a_client_that_leaves_cancels_its_pictures(
    client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    counted = {"route": "/variations", "status": "499"}
    before = value(client, "variations_requests_total", counted)
    engine.gate.held = True
    with streaming(client, png) as told:
        assert next(told)[0] == "queued"
        assert not engine.gone.is_set()
    assert engine.gone.wait(60)
    eventually(lambda: value(client, "variations_requests_total", counted) == before + 1)


def test_a_stream_is_kept_alive_for_as_long_as_its_client_reads(
    monkeypatch: pytest.MonkeyPatch, png: bytes
) -> None:
    """Though a connection whose answer is not read for a tenth of a second is ended."""
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.01)
    engine = FakeEngine()
    engine.gate.held = True
    app = create_app(Settings(), engine, FakeDecoders())
    with (
        serving(app, Connections(seconds=0.1, keep_alive=60, most=100)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        streaming(client, png) as told,
    ):
        assert next(told)[0] == "queued"
        for _ in range(30):
            assert next(told) == ("", {})
        engine.gate.open()
        assert [name for name, _ in told if name][-1] == "done"
