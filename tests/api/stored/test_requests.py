"""Stored requests where something else happens at the same moment, or the database is at fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.api.application import create_app
from app.api.state import Service
from app.api.stored.database import Database, Row, StoredPicture
from app.api.stored.job import ended
from app.errors import GenerationFailed, NoSuchRequest, WorkerUnavailable
from app.parameters import Parameters
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.requests import MODEL
from tests.support.scrape import eventually
from tests.support.serving import serving

SUMMARY = (
    '{"id":"a","created":1,"model":{"id":"fake","revision":null},"parameters":{"n":1,'
    '"guidance_scale":3,"num_inference_steps":4,"scheduler":"ddim","seed":1,"width":64,'
    '"height":64,"fit":"squash","output_format":"png"},"timings":{"upload":0,"read":0,"queue":0,'
    '"encode":0,"denoise":0,"decode":0,"safety":0,"write":0,"total":0,"predicted":0,"steps":4}}'
)
VARIATION = (
    '{"index":0,"seed":1,"b64_json":null,"media_type":"image/png","width":64,"height":64,'
    '"flagged":false,"near_duplicate":null}'
)
ROW = Row("a", "", "key", "print", "png", "fake@None")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Service]:
    """The stored requests of a service that does not listen."""
    app = create_app(settings, FakeEngine(), FakeDecoders())
    service: Service = app.state.service
    await service.stored.start(service)
    try:
        yield service
    finally:
        await service.stored.stop()
        await service.stored.close()


async def keep(path: Path, summary: str = SUMMARY, row: Row = ROW) -> None:
    """Leave a finished request in a file."""
    database = Database(path, 10**9, 1000.0)
    await database.open()
    await database.add(row, b"packed")
    await database.finish(row.id, 2, summary, [StoredPicture(1, VARIATION, b"file")])
    await database.close()


@pytest.mark.anyio
async def test_what_is_forgotten_while_it_is_read_is_not_found(tmp_path: Path) -> None:
    """Its row was read, its pictures are not there any more: no result without pictures."""

    async def forget(service: Service, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await service.stored._database.remove("a")  # as when there is room for it no more

    for turns in range(6):
        path = tmp_path / f"{turns}.db"
        await keep(path)
        async with started(Settings(store=path)) as service:
            found, _ = await asyncio.gather(
                service.stored.find("a", ""), forget(service, turns), return_exceptions=True
            )
            if isinstance(found, BaseException):
                assert isinstance(found, NoSuchRequest)
            else:
                assert found.result is not None
                assert len(found.result.variations) == 1


@pytest.mark.anyio
async def test_results_of_another_version_do_not_keep_the_service_from_starting(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    row = Row("a", "", "key", "print", "png", "fake@None", webhook="https://a.example/")
    await keep(path, summary='{"id":"a"}', row=row)
    async with started(Settings(store=path)) as service:
        job = await service.stored.find("a", "")
        assert isinstance(job.log.error, GenerationFailed)


def test_of_an_error_of_another_version_the_message_is_left() -> None:
    async def error() -> BaseException | None:
        row = Row("a", "", None, "print", "png", "fake@None", error='{"kind":"No","message":"it"}')
        return ended(row, []).log.error

    found = asyncio.run(error())
    assert isinstance(found, GenerationFailed)
    assert found.message == "it"


def test_the_file_is_for_the_services_own_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    asyncio.run(keep(path))
    assert path.stat().st_mode & 0o777 == 0o600


def post(client: httpx.Client, png: bytes, **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/variations", files={"image": ("a.png", png)}, headers=headers)


def test_who_repeats_a_request_that_is_left_to_the_next_start_is_told_at_once(
    tmp_path: Path, png: bytes
) -> None:
    engine = FakeEngine()
    engine.error = WorkerUnavailable("there is no worker")
    app = create_app(Settings(store=tmp_path / "store.db"), engine, FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert_problem(post(client, png, idempotency_key="one"), 503)
        engine.error = None
        again = post(client, png, idempotency_key="one", x_request_timeout="2")
        assert "next start" in assert_problem(again, 503)["detail"]
        limited = app.state.service.limiter
        assert limited.taken == 0


def break_database(service: Service, words: str) -> None:
    """Have its connection do something."""

    async def work() -> None:
        await service.stored._database._run(lambda: service.stored._database._db.execute(words))

    asyncio.run(work())


def test_a_store_that_fails_is_told_as_such(tmp_path: Path, png: bytes) -> None:
    app = create_app(Settings(store=tmp_path / "store.db"), FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        break_database(app.state.service, "ALTER TABLE requests RENAME TO others")
        for response in (
            post(client, png, idempotency_key="one"),
            post(client, png, prefer="respond-async"),
            client.get("/variations/a"),
            client.delete("/variations/a"),
        ):
            problem = assert_problem(response, 503)
            assert problem["type"] == "urn:variations:not-ready"
            assert "store" in problem["detail"] or "stored" in problem["detail"]
        assert app.state.service.limiter.taken == 0
        assert post(client, png).status_code == 200


def test_a_request_that_cannot_be_taken_up_again_holds_up_no_other(
    tmp_path: Path, png: bytes
) -> None:
    settings = Settings(store=tmp_path / "store.db")
    engine = FakeEngine()
    engine.gate.held = True
    with (
        serving(create_app(settings, engine, FakeDecoders())) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        left = [post(client, png, prefer="respond-async").headers["location"] for _ in range(2)]

    class Odd(FakeEngine):
        def predict(self, parameters: Parameters) -> Span:
            if not self.parameters and not self.failed:
                self.failed = True
                raise KeyError(parameters.size)
            return super().predict(parameters)

        failed = False

    app = create_app(settings, Odd(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        eventually(lambda: app.state.service.limiter.taken == 0)
        states = [client.get(location).json()["status"] for location in left]
        assert states == ["failed", "done"]


def test_a_request_for_what_is_no_longer_offered_says_so(tmp_path: Path, png: bytes) -> None:
    settings = Settings(store=tmp_path / "store.db")
    engine = FakeEngine()
    engine.gate.held = True
    with (
        serving(create_app(settings, engine, FakeDecoders())) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        location = post(client, png, prefer="respond-async").headers["location"]
    engine = FakeEngine()
    engine.model = replace(MODEL, sizes=((96, 64),))
    app = create_app(settings, engine, FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        eventually(lambda: client.get(location).json()["status"] not in ("queued", "running"))
        error = client.get(location).json()["error"]
        assert "64x64" in error["detail"]
    assert engine.parameters == []
