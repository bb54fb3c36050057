"""Both clients, over real HTTP: above an engine without a model, or a server that misbehaves."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from app import client
from app.api.application import create_app
from app.client import (
    AsyncClient,
    Client,
    Preview,
    Progress,
    Queued,
    Restarted,
    Step,
    Waiting,
)
from app.errors import GenerationFailed, QueueFull
from app.parameters import Fit, Scheduler
from app.settings import Settings
from tests.support.canned import Canned, canned, events
from tests.support.faces import FACES, Face
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.pictures import in_mode, picture_file
from tests.support.serving import Served, serving

KEY = "a-key-of-16-letters"
DONE = ("done", {"id": "1", "model": {}, "parameters": {}, "timings": {}})


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    settings = Settings(api_keys=(SecretStr(KEY),))
    engine, decoders = FakeEngine(), FakeDecoders(settings)
    with serving(create_app(settings, engine, decoders)) as url:
        yield Served(url, engine, decoders)


@pytest.fixture
def engine(served: Served) -> FakeEngine:
    served.engine.reset()
    return served.engine


@pytest.fixture(params=FACES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def face(kind: str, served: Served, engine: FakeEngine) -> Face:
    return FACES[kind](served.url, {"api_key": KEY})


def test_an_answer_has_the_pictures_and_what_made_them(face: Face, png: bytes) -> None:
    answer = face.vary(png, n=2, seed=7, scheduler=Scheduler.LMS, width=96, output_format="webp")
    assert [(one.index, one.seed, one.flagged) for one in answer] == [(0, 7, False), (1, 8, False)]
    for one in answer:
        assert one.image is not None
        assert (one.image.format, one.image.size) == ("WEBP", (96, 64))
    assert answer.parameters["scheduler"] == "lms"
    assert answer.model["id"] == "fake"
    assert answer.timings["total"] > 0
    assert answer[-1].seed == 8


def test_a_picture_is_a_path_or_bytes_or_an_image(
    face: Face, engine: FakeEngine, png: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "Bild – ä.png"
    path.write_bytes(png)
    with Image.open(path) as image:
        for picture in (png, path, str(path), image):
            face.vary(picture, fit=Fit.CROP)
    first, *others = [condition.rows[0].pictures[0][0] for condition in engine.conditions]
    assert all(np.array_equal(first, one) for one in others)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16", "CMYK", "LAB"])
def test_an_image_of_any_mode_can_be_sent(mode: str, served: Served, engine: FakeEngine) -> None:
    with Client(served.url, api_key=KEY) as sync:
        assert len(sync.vary(in_mode(mode))) == 1


def test_an_image_is_sent_as_it_is_to_be_seen(served: Served, engine: FakeEngine) -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(io.BytesIO(picture_file("PNG"))).rotate(180).save(turned, "PNG", exif=exif)
    with Client(served.url, api_key=KEY) as sync:
        sync.vary(picture_file("PNG"))
        sync.vary(Image.open(turned))
    upright, same = (condition.rows[0].pictures[0][0] for condition in engine.conditions)
    assert np.array_equal(upright, same)


def test_several_pictures_are_mixed(face: Face, png: bytes) -> None:
    other = picture_file("PNG", (30, 40))
    answer = face.vary([png, other], weight=[3, 1], mix="rows", negative_image=png)
    assert answer.parameters["weight"] == [0.75, 0.25]
    assert answer.parameters["mix"] == "rows"
    assert answer.parameters["negative_image"] is True


def test_progress_is_told_as_it_happens(face: Face, png: bytes) -> None:
    told: list[Progress] = []
    answer = face.vary(png, n=2, num_inference_steps=2, on_progress=told.append)
    assert told[0] == Queued(position=2, start_in=0.5)
    assert [one.done for one in told if isinstance(one, Step)][-1] == (2, 2)
    assert told[-2:] == list(answer)


def test_what_happens_on_the_way_is_told_and_what_is_unknown_passed_over(
    kind: str, png: bytes
) -> None:
    size = {"index": 0, "media_type": "image/jpeg", "width": 8, "height": 8}
    preview: tuple[str, Any] = ("preview", {**size, "b64_json": "AAEC"})
    picture = ("picture", {**size, "b64_json": None, "flagged": True, "seed": 3, "new": 1})
    told: list[Progress] = []
    with canned([events(preview, ("new", {}), ("restarted", {}), picture, DONE)]) as (url, _):
        answer = FACES[kind](url).vary(png, on_progress=told.append)
    assert told == [Preview(0, b"\0\1\2", "image/jpeg", 8, 8), Restarted(), *answer]
    assert answer[0].details == {"new": 1}


def test_a_flagged_picture_has_no_data(face: Face, engine: FakeEngine, png: bytes) -> None:
    engine.flagged = frozenset({1})
    harmless, flagged = face.vary(png, n=2)
    assert harmless.data
    assert flagged.flagged
    assert flagged.data is None
    assert flagged.image is None


def test_an_error_says_what_was_wrong_with_which_field(face: Face, png: bytes) -> None:
    with pytest.raises(client.InvalidRequest) as caught:
        face.vary(png, n=9)
    error = caught.value
    assert (error.status, error.field) == (422, "n")
    assert error.type == "urn:variations:invalid-parameter"
    assert error.title == "Parameter not valid"
    assert "less than or equal to 8" in error.detail == str(error)
    assert error.request_id


def test_a_wrong_key_is_an_error_of_its_own(kind: str, served: Served, png: bytes) -> None:
    with pytest.raises(client.NotAuthorized, match="API key"):
        FACES[kind](served.url, {"api_key": "wrong"}).vary(png)


def test_what_fails_on_the_way_is_the_streams_error(
    face: Face, engine: FakeEngine, png: bytes
) -> None:
    engine.error = GenerationFailed("numbers are not finite")
    with pytest.raises(client.ServiceError, match="not finite") as caught:
        face.vary(png)
    assert caught.value.status == 500


def test_a_busy_service_is_asked_again_when_it_says_so(
    face: Face, engine: FakeEngine, png: bytes
) -> None:
    engine.error = QueueFull("full", retry_after=0.02)
    waited = []

    def wait(told: Progress) -> None:
        if isinstance(told, Waiting):
            waited.append(told)
            if len(waited) == 6:  # more often than a connection may break
                engine.error = None

    assert len(face.vary(png, on_progress=wait)) == 1
    assert [one.seconds for one in waited] == [0.02] * 6
    assert all(isinstance(one.error, client.Busy) for one in waited)


@pytest.mark.parametrize("retry_after", [None, 900.0])
def test_who_cannot_be_served_in_time_is_told_at_once(
    retry_after: float | None, face: Face, engine: FakeEngine, png: bytes
) -> None:
    """None: the service says ``x-should-retry: false``."""
    engine.error = QueueFull("full", retry_after=retry_after)
    with pytest.raises(client.Busy) as caught:
        face.vary(png)
    assert caught.value.retry_after == retry_after
    assert caught.value.should_retry is (retry_after is not None)
    assert len(engine.parameters) == 1


def test_a_broken_connection_is_made_again_with_the_same_key_and_body(
    kind: str, png: bytes
) -> None:
    cut_off = Canned(headers={"content-type": "text/event-stream"}, body=b"event: q", broken=True)
    gateway = Canned(status=502, headers={"content-type": "text/html"}, body=b"<h1>no</h1>")
    with canned([cut_off, gateway, events(DONE)]) as (url, sent):
        assert FACES[kind](url).vary(png, n=2).id == "1"
    first, *again = sent
    assert len(again) == 2
    assert all(one.body == first.body for one in again)
    keys = {one.headers["idempotency-key"] for one in sent}
    assert len(keys) == 1
    left = [float(one.headers["x-request-timeout"]) for one in sent]
    assert left == sorted(left, reverse=True)


def test_what_is_not_this_service_is_not_asked_twice(kind: str, png: bytes) -> None:
    with canned([Canned(body=b"hello")]) as (url, sent), pytest.raises(client.Unreachable):
        FACES[kind](url, {"timeout": 0.1}).vary(png)
    assert len(sent) == 1


def test_where_nothing_listens_the_address_is_named(kind: str, png: bytes) -> None:
    with canned([]) as (url, _):
        pass
    with pytest.raises(client.Unreachable, match=url.removeprefix("http://")):
        FACES[kind](url, {"timeout": 0.1}).vary(png)


def test_an_address_without_a_scheme_is_refused(kind: str, png: bytes) -> None:
    with pytest.raises(ValueError, match="like http://127"):
        FACES[kind]("localhost:8000").vary(png)


class Stop(Exception):
    """Ends a request from its callback."""


def stop(_told: Progress) -> None:
    raise Stop


def test_a_callback_that_raises_cancels_the_request(
    face: Face, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True
    with pytest.raises(Stop):
        face.vary(png, on_progress=stop)
    assert engine.gone.wait(60)


def test_a_cancelled_task_cancels_the_request(
    served: Served, engine: FakeEngine, png: bytes
) -> None:
    engine.gate.held = True

    async def cancel() -> None:
        seen = asyncio.Event()
        async with AsyncClient(served.url, api_key=KEY) as client:
            task = asyncio.create_task(client.vary(png, on_progress=lambda _: seen.set()))
            await seen.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert engine.gone.wait(60)


def test_a_request_that_is_kept_is_deleted_when_it_is_given_up(kind: str, png: bytes) -> None:
    queued: tuple[str, Any] = ("queued", {"position": 0, "start_in": 1.0})
    kept = events(queued, content_location="/variations/17")
    with canned([kept, Canned(status=204)]) as (url, sent):
        with pytest.raises(Stop):
            FACES[kind](url).vary(png, on_progress=stop)
        assert [(one.method, one.path) for one in sent[1:]] == [("DELETE", "/variations/17")]
