"""Ray Serve for real: a cluster, two replicas on the CPU with the built-in model, Ray's proxy."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.deploy.cluster import RAY, Cluster, cluster, free_port, wait_until
from tests.deploy.engine import HEADERS
from tests.support.figures import record
from tests.support.load import photo, post, until
from tests.support.scrape import value

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

FORM = {"seed": "1"}
LONG = {"seed": "1", "n": "2", "num_inference_steps": "60"}
AT_ONCE = 8
MEASURED = 48


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@asynccontextmanager
async def _client(ray: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=ray.url, headers=HEADERS, timeout=300, limits=limits
    ) as client:
        yield client


@dataclass(slots=True)
class Patient:
    """Callers that post a request again after a refusal, or when a replica died with it."""

    client: httpx.AsyncClient
    lost: Counter[str] = field(default_factory=Counter)
    answers: list[httpx.Response] = field(default_factory=list)

    async def post(self, form: dict[str, str]) -> None:
        """Post until there is an answer that is not about now."""
        while True:
            wait = 0.2
            try:
                answer = await post(self.client, form)
            except httpx.TransportError as error:
                self.lost[type(error).__name__] += 1
            else:
                if answer.status_code != 429 and answer.status_code < 500:
                    self.answers.append(answer)
                    return
                self.lost[str(answer.status_code)] += 1
                wait = float(answer.headers.get("retry-after", wait))
            await asyncio.sleep(wait)

    async def post_until(self, over: Callable[[], bool]) -> None:
        """Post with :data:`AT_ONCE` callers, again and again."""

        async def one() -> None:
            while not over():
                await self.post(FORM)

        await asyncio.gather(*(one() for _ in range(AT_ONCE)))

    async def post_all(self, count: int) -> None:
        """Post so many requests with :data:`AT_ONCE` callers."""
        left = iter(range(count))
        await self.post_until(lambda: next(left, None) is None)

    def assert_pictures(self) -> None:
        """Assert that every request got its pictures."""
        assert {answer.status_code for answer in self.answers} == {200}


def _count(address: str, name: str, **labels: str) -> float:
    """One number from a replica's own metrics."""
    with httpx.Client(base_url=address, timeout=30) as client:
        return value(client, f"variations_{name}", labels)


def _answered(ray: Cluster) -> dict[str, int]:
    """Requests answered with pictures by each replica."""
    return {
        name: int(_count(address, "stage_seconds_count", stage="queue"))
        for name, address in ray.addresses().items()
    }


def test_requests_go_to_both_replicas_and_prometheus_tells_them_apart(
    ray: Cluster, tmp_path: Path
) -> None:
    ray.deploy(1)
    alone = asyncio.run(_rate(ray))
    before = _answered(ray)
    replicas = ray.deploy(2)
    together = asyncio.run(_rate(ray))
    answered = _answered(ray)
    assert answered.keys() == {replica.id for replica in replicas}
    shares = {name: count - before.get(name, 0) for name, count in answered.items()}
    assert all(shares.values())
    record(
        "one replica and two",
        {
            "requests": MEASURED,
            "callers_at_once": AT_ONCE,
            "answered_by_each_of_two": sorted(shares.values()),
            "requests_a_second_by_one": round(alone, 2),
            "requests_a_second_by_two": round(together, 2),
            "cores": os.cpu_count(),
        },
    )
    with _prometheus(ray, tmp_path) as scraped:
        query = 'variations_stage_seconds_count{stage="queue"}'
        wait_until(lambda: len(scraped(query)) == 2)
        assert scraped(query) == answered
        assert scraped("up") == dict.fromkeys(answered, 1)


@contextmanager
def _prometheus(ray: Cluster, folder: Path) -> Iterator[Callable[[str], dict[str, int]]]:
    """A Prometheus that is told only of the router; gives the values of a query by replica."""
    file = folder / "prometheus.yml"
    file.write_text(
        (RAY / file.name).read_text().replace("http://RAY-HEAD:8000", ray.url).replace("15s", "1s")
    )
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={file}", f"--storage.tsdb.path={folder}/tsdb")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address={address}"], stderr=log
        )

    def values(query: str) -> dict[str, int]:
        answer = httpx.get(f"http://{address}/api/v1/query", params={"query": query}).json()
        return {one["metric"]["replica"]: int(one["value"][1]) for one in answer["data"]["result"]}

    try:
        yield values
    finally:
        process.terminate()
        process.wait()


def test_each_worker_sees_the_gpu_that_ray_gave_its_replica(ray: Cluster) -> None:
    seen = set()
    for replica in ray.deploy(2):
        environment = Path(f"/proc/{replica.worker}/environ").read_text().split("\0")
        seen |= {one for one in environment if one.startswith("CUDA_VISIBLE_DEVICES=")}
    assert seen == {"CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=5"}


def test_a_replica_killed_under_load_is_replaced_and_callers_with_retry_see_nothing(
    ray: Cluster,
) -> None:
    before = ray.deploy(2)
    victim = before[0]
    worker = victim.worker
    times: list[float] = []

    def replaced() -> bool:
        return len({one.id for one in ray.replicas()} - {victim.id}) == 2

    def newcomer_answers() -> bool:
        known = {one.id for one in before}
        return any(count for name, count in _answered(ray).items() if name not in known)

    async def scenario() -> Patient:
        async with _client(ray) as client:
            patient, over = Patient(client), asyncio.Event()
            load = asyncio.create_task(patient.post_until(over.is_set))
            address = ray.addresses()[victim.id]
            await until(lambda: _count(address, "queue_requests") >= 2)
            os.kill(victim.pid, signal.SIGKILL)
            begin = time.perf_counter()
            await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{worker}").exists())
            await asyncio.to_thread(wait_until, replaced)
            times.append(time.perf_counter() - begin)
            await asyncio.to_thread(wait_until, newcomer_answers)
            over.set()
            await load
            return patient

    patient = asyncio.run(scenario())
    patient.assert_pictures()
    assert patient.lost, "nothing was lost with the replica: it was not under load"
    record(
        "a replica killed under load",
        {
            "callers_at_once": AT_ONCE,
            "answered": len(patient.answers),
            "posted_again": sum(patient.lost.values()),
            "why": dict(patient.lost),
            "failures_seen_by_callers_with_retry": sum(
                answer.status_code != 200 for answer in patient.answers
            ),
            "seconds_until_replaced": round(times[0], 1),
        },
    )


def test_while_there_is_no_replica_requests_wait_in_the_proxy(ray: Cluster) -> None:
    (only,) = ray.deploy(1)
    os.kill(only.pid, signal.SIGKILL)

    async def scenario() -> httpx.Response:
        async with _client(ray) as client:
            return await post(client, FORM)

    assert asyncio.run(scenario()).status_code == 200
    assert only not in ray.replicas()


def test_a_replica_that_is_no_longer_wanted_finishes_what_it_has(ray: Cluster) -> None:
    workers = [replica.worker for replica in ray.deploy(2)]
    addresses = list(ray.addresses().values())

    async def scenario() -> list[httpx.Response]:
        async with _client(ray) as client:
            # So many that each replica gets two of them, however they are dealt.
            posts = [asyncio.create_task(post(client, LONG)) for _ in range(2 * AT_ONCE)]
            await until(lambda: all(_count(one, "queue_requests") >= 2 for one in addresses))
            await asyncio.to_thread(ray.submit, "cpu.yaml", 1)
            states = [one["state"] for one in ray.deployment()["replicas"]]
            assert sorted(states) == ["RUNNING", "STOPPING"]
            assert not all(one.done() for one in posts)
            return await asyncio.gather(*posts)

    answers = asyncio.run(scenario())
    assert [answer.status_code for answer in answers] == [200] * 2 * AT_ONCE
    wait_until(lambda: sum(Path(f"/proc/{one}").exists() for one in workers) == 1)


def test_a_caller_who_leaves_costs_two_steps_at_most(ray: Cluster) -> None:
    ray.deploy(1)
    (address,) = ray.addresses().values()
    steps = _count(address, "step_rows_count")
    gone = {"route": "/variations", "status": "499"}

    async def scenario() -> None:
        async with _client(ray) as client:
            posted = asyncio.create_task(post(client, LONG))
            await until(lambda: _count(address, "step_rows_count") > steps)
            posted.cancel()
            await until(lambda: _count(address, "requests_total", **gone) == 1)

    asyncio.run(scenario())
    assert _count(address, "pictures_total", outcome="cancelled") == 2
    assert _count(address, "wasted_steps_total", step="later") == 0


def test_the_proxy_hands_on_what_the_service_says(ray: Cluster) -> None:
    ray.deploy(1, VARIATIONS_MAX_QUEUE="2")
    with httpx.Client(base_url=ray.url, headers=HEADERS, timeout=60) as client:
        picture = {"image": photo()}
        refused = {
            401: client.post("/variations", files=picture, headers={"Authorization": "Bearer x"}),
            404: client.get("/nothing"),
            405: client.get("/variations"),
            413: client.post("/variations", files={"image": bytes(21 * 2**20)}),
            415: client.post("/variations", json={}),
            422: client.post("/variations", files=picture, data={"n": "99"}),
            503: client.post(
                "/variations",
                files=picture,
                data={"n": "8", "num_inference_steps": "100"},
                headers={"X-Request-Timeout": "1"},
            ),
            429: asyncio.run(_full(ray)),
        }
        named = client.post("/variations", files=picture, headers={"x-request-id": "mine"})
    for status, answer in refused.items():
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert int(refused[429].headers["retry-after"]) >= 1
    assert int(refused[429].headers["retry-after-ms"]) > 0
    assert refused[503].headers["x-should-retry"] == "false"  # not even alone in a second
    assert named.headers.get_list("x-request-id") == ["mine"]
    assert named.json()["id"].startswith("mine.")


async def _full(ray: Cluster) -> httpx.Response:
    """The answer to the third of three requests where the queue holds two."""
    async with _client(ray) as client:
        answers = await asyncio.gather(*(post(client, FORM) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    return next(answer for answer in answers if answer.status_code == 429)


def test_without_keys_nothing_is_deployed(ray: Cluster) -> None:
    ray.submit("serve.yaml", VARIATIONS_API_KEYS="")
    wait_until(lambda: ray.application()["status"] == "DEPLOY_FAILED")
    assert "set VARIATIONS_API_KEYS" in ray.application()["message"]


def test_a_replica_that_cannot_start_says_why(ray: Cluster) -> None:
    ray.submit("serve.yaml", VARIATIONS_DEVICE="cuda:7")
    wait_until(lambda: "The replica accepts no requests" in ray.deployment()["message"])
    assert "the device 'cuda:7' cannot be used" in ray.deployment()["message"]
    assert ray.replicas() == []


async def _rate(ray: Cluster) -> float:
    async with _client(ray) as client:
        patient = Patient(client)
        begin = time.perf_counter()
        await patient.post_all(MEASURED)
        patient.assert_pictures()
        return MEASURED / (time.perf_counter() - begin)
