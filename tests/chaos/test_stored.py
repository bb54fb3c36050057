"""The service itself is killed, with SIGKILL, while it has stored requests."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.figures import record
from tests.support.load import Form, mixed_forms, photo, pictures, post, until
from tests.support.processes import ServiceProcess, service_process

pytestmark = pytest.mark.anyio

AT_ONCE = 8
ASYNC = {"prefer": "respond-async"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Phoenix:
    """A service on one port with one store, started again whenever it is killed."""

    model: Path
    store: Path
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """Its address, the same after every start."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def run(self, max_rows: str = "16") -> Iterator[ServiceProcess]:
        """Run it, until the block ends or it is killed."""
        with service_process(
            model=str(self.model),
            device="cpu",
            dtype="float32",
            store=str(self.store),
            port=str(self.port),
            max_rows=max_rows,
        ) as service:
            yield service


@pytest.fixture
def phoenix(tiny_checkpoint: Path, tmp_path: Path) -> Phoenix:
    return Phoenix(tiny_checkpoint, tmp_path / "store.db")


async def kill(service: ServiceProcess) -> None:
    service.signal(signal.SIGKILL)
    await asyncio.to_thread(service.wait)


@asynccontextmanager
async def client_of(phoenix: Phoenix) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=phoenix.url, timeout=300, limits=limits) as client:
        yield client


async def ended(client: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """A stored request once it has ended: its events come until then."""
    async with client.stream("GET", f"{location}/events") as response:
        assert response.status_code == 200
        text = b"".join([piece async for piece in response.aiter_bytes()]).decode()
    body: dict[str, Any] = (await client.get(location)).json()
    body["told"] = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    return body


LONG: Form = {"scheduler": "heun", "num_inference_steps": "100"}
SHORT: Form = {"scheduler": "ddim", "num_inference_steps": "4"}
ONE_BY_ONE = "2"
"""Rows: those of one picture with guidance."""


@pytest.mark.timeout(300)
async def test_after_a_kill_what_was_queued_running_and_done_is_answered_and_nothing_twice(
    phoenix: Phoenix,
) -> None:
    with phoenix.run(ONE_BY_ONE) as service:
        await asyncio.to_thread(service.wait_for, "ready:")
        async with client_of(phoenix) as client:
            done = await stored(client, SHORT, 1)
            first = await ended(client, done)
            running = await stored(client, LONG, 2)
            async with client.stream("GET", f"{running}/events") as response:
                async for line in response.aiter_lines():
                    if line == "event: step":
                        break
            queued = [await stored(client, LONG, seed) for seed in (3, 4)]
            assert (await client.get(running)).json()["status"] == "running"
            assert (await client.get(queued[-1])).json()["status"] == "queued"
            await kill(service)
    with phoenix.run(ONE_BY_ONE) as service:
        await asyncio.to_thread(service.wait_for, "ready:")
        async with client_of(phoenix) as client:
            again = await ended(client, done)
            assert again == {**first, "told": ["picture", "done"]}
            answers = [await ended(client, location) for location in (running, *queued)]
            assert [one["status"] for one in answers] == ["done"] * 3
            assert [one["result"]["parameters"]["seed"] for one in answers] == [2, 3, 4]
            assert all(one["told"].count("picture") == 1 for one in answers)
            counts = stored_counts(await client.get("/metrics"))
            assert counts == {"ended": 4, "unfinished": 0}
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.assert_clean_end)


def stored_counts(metrics: httpx.Response) -> dict[str, float]:
    """The requests in the store, by state."""
    return {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(metrics.text)
        for sample in family.samples
        if sample.name == "variations_stored_requests"
    }


async def stored(client: httpx.AsyncClient, form: Form, seed: int) -> str:
    response = await post(client, {**form, "seed": str(seed)}, **ASYNC)
    assert response.status_code == 202, response.text
    return response.headers["location"]


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_service_that_is_told_to_end_leaves_what_is_queued_to_the_next(
    phoenix: Phoenix,
) -> None:
    with phoenix.run(ONE_BY_ONE) as service:
        await asyncio.to_thread(service.wait_for, "ready:")
        async with client_of(phoenix) as client:
            locations = [await stored(client, LONG, seed) for seed in range(6)]
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.assert_clean_end)
    with phoenix.run(ONE_BY_ONE) as service:
        await asyncio.to_thread(service.wait_for, "listening")
        async with client_of(phoenix) as client:
            before = [(await client.get(one)).json()["status"] for one in locations]
            assert before[-1] == "queued"
            answers = [await ended(client, location) for location in locations]
            assert [one["status"] for one in answers] == ["done"] * 6


@dataclass(slots=True)
class Persistent:
    """Clients that post each form, with a key of its own, until it is answered."""

    phoenix: Phoenix
    forms: list[Form]
    answers: dict[int, httpx.Response] = field(default_factory=dict)
    posts: int = 0

    async def post_all(self) -> None:
        line = iter(range(len(self.forms)))
        async with client_of(self.phoenix) as client:

            async def one_client() -> None:
                for number in line:
                    self.answers[number] = await self._answer(client, number)

            await asyncio.gather(*(one_client() for _ in range(AT_ONCE)))

    async def _answer(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        form, key = self.forms[number], {"idempotency-key": f"request-{number}"}
        files = {"image": ("a.png", photo(int(form["seed"]) % 7))}
        while True:
            self.posts += 1
            try:
                response = await client.post("/variations", files=files, data=form, headers=key)
            except httpx.TransportError:  # it was killed, and is not there again yet
                await asyncio.sleep(0.1)
                continue
            if response.status_code not in (429, 503):
                return response
            await asyncio.sleep(float(response.headers.get("retry-after-ms", "500")) / 1000)


@pytest.mark.parametrize(
    ("requests", "kills"),
    [(16, 1), pytest.param(200, 10, marks=pytest.mark.chaos)],
    ids=["short", "long"],
)
@pytest.mark.timeout(3000)
async def test_requests_with_keys_are_all_answered_through_kills_of_the_service(
    phoenix: Phoenix, requests: int, kills: int
) -> None:
    forms = mixed_forms(requests, seed=requests)
    crowd, random = Persistent(phoenix, forms), Random(7)
    posting = asyncio.create_task(crowd.post_all())
    for number in range(kills):
        with phoenix.run() as service:
            await asyncio.to_thread(service.wait_for, "ready:")
            due = (number + 0.5) * requests / kills
            await until(lambda n=due: len(crowd.answers) >= n, 600)  # type: ignore[misc]
            await asyncio.sleep(random.random() / 5)
            assert not posting.done(), "the kill came too late"
            await kill(service)
    with phoenix.run() as service:
        await asyncio.to_thread(service.wait_for, "ready:")
        await posting
        async with client_of(phoenix) as client:
            counts = stored_counts(await client.get("/metrics"))
        assert counts == {"ended": requests, "unfinished": 0}
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.assert_clean_end)
    answers = [crowd.answers[number] for number in range(requests)]
    assert [one.status_code for one in answers] == [200] * requests
    assert len({one.json()["id"] for one in answers}) == requests
    for form, answer in zip(forms, answers, strict=True):
        assert answer.json()["parameters"]["seed"] == int(form["seed"])
        assert len(pictures(answer)) == int(form["n"])
    if kills > 1:
        record(
            "kills of the service",
            {
                "requests": requests,
                "answered_200": sum(one.status_code == 200 for one in answers),
                "kills": kills,
                "posts": crowd.posts,
                "requests_in_the_store_at_the_end": counts["ended"],
            },
        )
