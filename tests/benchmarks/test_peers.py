"""The peers make the reference's pictures, and the generator and the figures tell the truth."""

import asyncio
import base64
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.parameters import Fit, Scheduler
from app.pictures.decode import decode
from benchmarks.peers import campaign, figures, load, results, web, workload
from benchmarks.peers.campaign import Campaign, Options, Task
from benchmarks.peers.fastapi_lock import handler
from benchmarks.peers.load import Plan, Record
from benchmarks.peers.model import Answer, Model, Request, Variation
from benchmarks.peers.request_batcher import RequestBatcher
from benchmarks.peers.step_batcher import StepBatcher
from benchmarks.peers.systems import ROOT
from benchmarks.peers.workload import Item
from tests.support.reference import Reference
from tests.support.workers import PARAMETERS, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

PEERS: dict[str, Callable[[Model], web.Handler]] = {
    "fastapi_lock": handler,
    "request_batcher": lambda model: RequestBatcher(model, 4).variations,
    "step_batcher": lambda model: StepBatcher(model, 4).variations,
}
MIXED = [
    Item(2, 3, 3.0, "ddim", 7),
    Item(1, 3, 3.0, "ddim", 1),
    Item(1, 2, 1.0, "pndm", 2),
    Item(2, 4, 5.0, "dpmsolver++", 3),
]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Model:
    return Model(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> Reference:
    return Reference(tiny_checkpoint, "cpu")


def client(of: web.Handler) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(web.create_app(of))
    return httpx.AsyncClient(transport=transport, base_url="http://peer")


def posted(of: web.Handler, plan: Plan, picture: bytes) -> list[Record]:
    records: list[Record] = []

    async def post() -> None:
        async with client(of) as http:
            await load.run(plan, picture, http, records.append)

    asyncio.run(post())
    return records


def pictures(answer: dict[str, Any]) -> NDArray[np.int16]:
    files = [base64.b64decode(one["b64_json"]) for one in answer["variations"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files]).astype(np.int16)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_makes_the_pictures_of_the_reference_whatever_else_it_has_to_do(
    peer: str, model: Model, reference: Reference, png: bytes
) -> None:
    image = base64.b64encode(png).decode()

    async def answers() -> list[dict[str, Any]]:
        async with client(PEERS[peer](model)) as http:
            bodies = [asdict(item) | {"image": image} for item in MIXED]
            posts = [http.post("/variations", json=body) for body in bodies]
            return [response.json() for response in await asyncio.gather(*posts)]

    picture = decode(png, max_pixels=10**6)
    for item, answer in zip(MIXED, asyncio.run(answers()), strict=True):
        wanted = replace(
            PARAMETERS,
            n=item.n,
            num_inference_steps=item.num_inference_steps,
            guidance_scale=item.guidance_scale,
            scheduler=Scheduler(item.scheduler),
            seed=item.seed,
            fit=Fit.SQUASH,
        )
        expected, _ = reference.pictures(reference.latents(picture, wanted))
        assert_same(pictures(answer), expected.astype(np.int16))


@pytest.mark.parametrize("peer", PEERS)
def test_the_generator_tells_of_every_answer(peer: str, model: Model, png: bytes) -> None:
    plan = Plan("/variations", "json", "", MIXED, arrivals=[0.0, 0.01, 0.02, 0.02])
    records = posted(PEERS[peer](model), plan, png)
    assert [record.error for record in records] == [None] * len(MIXED)
    assert Counter(record.kind for record in records) == Counter(item.kind for item in MIXED)
    solo = {item.kind: 100.0 for item in MIXED}
    assert figures.Latencies.of(records, solo).in_time == 1.0


def test_an_open_loop_posts_at_its_moments_whatever_is_answered() -> None:
    everybody_came = asyncio.Event()
    came = 0

    async def waits_for_all(request: Request) -> Answer:
        nonlocal came
        came += 1
        if came == 3:
            everybody_came.set()
        await everybody_came.wait()
        return Answer(variations=[Variation(index=0, seed=0, b64_json="x", flagged=False)])

    plan = Plan("/variations", "json", "", [workload.UNIFORM] * 3, arrivals=[0.0, 0.05, 0.1])
    records = posted(waits_for_all, plan, b"")
    assert all(record.good for record in records)
    assert sorted(record.sent for record in records)[1] >= 0.05


def test_a_closed_loop_keeps_so_many_under_way() -> None:
    under_way: list[int] = []
    now = 0

    async def counts(request: Request) -> Answer:
        nonlocal now
        now += 1
        under_way.append(now)
        await asyncio.sleep(0)
        now -= 1
        return Answer(variations=[])

    plan = Plan("/variations", "json", "", [workload.UNIFORM] * 20, outstanding=3)
    records = posted(counts, plan, b"")
    assert len(records) == 20
    assert max(under_way) <= 3
    assert {record.error for record in records} == {"0 pictures instead of 1"}


def test_a_refusal_and_a_failure_are_told_apart() -> None:
    records = [
        Record("a", 0.0, 1.0, 200),
        Record("a", 0.0, 4.0, 200),
        Record("a", 0.0, 0.1, 429, "full"),
        Record("a", 0.0, 0.1, 0, "ConnectError"),
    ]
    found = figures.Latencies.of(records, {"a": 1.0})
    assert (found.p50, found.p99) == (1.0, 4.0)
    assert (found.in_time, found.refused, found.failed) == (0.25, 1, 1)


def test_throughput_is_that_between_the_ends_of_bursts() -> None:
    bursts = [10.0 * number + 0.01 * place for number in range(1, 6) for place in range(4)]
    records = [Record("a", 0.0, moment, 200) for moment in bursts]
    assert figures.throughput(records, outstanding=4) == pytest.approx(0.4)
    assert figures.throughput(records[:7], outstanding=8) is None


def test_the_mix_has_each_request_once_in_a_deck_and_is_the_same_again() -> None:
    dealt = list(islice(workload.requests("mix", 1), 162))
    fields = [(i.n, i.num_inference_steps, i.guidance_scale, i.scheduler) for i in dealt]
    assert len(set(fields[:81])) == len(set(fields[81:])) == 81
    assert dealt == list(islice(workload.requests("mix", 1), 162))
    assert dealt != list(islice(workload.requests("mix", 2), 162))


def test_arrivals_are_of_the_rate() -> None:
    moments = workload.arrivals(10.0, 1000.0, seed=3)
    assert len(moments) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in pairwise(moments)]
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


@pytest.mark.parametrize(("limit", "found"), [(0.35, 0.3), (0.1, 0.1), (0.05, 0.0), (9.0, 2.0)])
def test_the_highest_rate_is_found_in_few_runs(limit: float, found: float) -> None:
    grid = [0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0]
    tried: list[float] = []

    def share(rate: float) -> float:
        tried.append(rate)
        return 1.0 if rate <= limit else 0.5

    known = {rate: 1.0 if rate <= limit else 0.5 for rate in (0.5, 1.0)}
    assert results.highest_rate(grid, share, known) == found
    assert len(tried) <= 3
    assert not set(tried) & set(known)


def test_what_was_run_is_not_run_again_but_where_it_was_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"service": 0.0, "fastapi_lock": 0.5}
    ran: list[str] = []

    def run(task: Task, options: Options) -> campaign.Outcome:
        ran.append(task.system)
        origin = {
            "command": "", "date": "", "machine": {}, "versions": {},
            "seconds": 1.0, "ours": 1.0, "others": others[task.system],
        }  # fmt: skip
        return campaign.Outcome(task, [Record("a", 0.0, 1.0, 200)], [1.0], origin)

    monkeypatch.setattr(campaign, "perform", run)
    for _ in range(2):
        for name in others:
            Campaign(tmp_path, Options(1.0)).done(Task(name, "mix", "closed"))
    assert ran == ["service", "fastapi_lock", "fastapi_lock"]
    with pytest.raises(ValueError, match="other options"):
        Campaign(tmp_path, Options(2.0))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["service", "fastapi_lock", "request_batcher", "step_batcher"])
def test_a_run_starts_a_system_and_puts_it_under_load(
    system: str, tiny_checkpoint: Path, tmp_path: Path, png: bytes
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png)
    options = Options(2.0, {system: 1}, model=tiny_checkpoint, picture=picture)
    for task in (Task(system, "mix", "closed"), Task(system, "mix", "open", 1, 1.0, 2.0)):
        outcome = campaign.perform(task, options)
        assert outcome.failed is None
        assert len(outcome.singles) == campaign.SINGLES
        assert outcome.records
        assert all(record.good for record in outcome.records), outcome.records


def test_the_peers_have_the_service_s_versions_of_what_both_have() -> None:
    files = ROOT / "constraints.txt", ROOT / "benchmarks" / "peers" / "requirements.txt"
    own, theirs = (set(re.findall(r"^\w[^\s;]+==\S+", f.read_text(), re.MULTILINE)) for f in files)
    names = {line.partition("==")[0] for line in own}
    shared = {line for line in theirs if line.partition("==")[0] in names}
    assert len(shared) > 5
    assert shared <= own
