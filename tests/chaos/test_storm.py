"""Requests under load while the worker is killed, frozen and made to stumble."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import httpx
import numpy as np
import pytest

from tests.chaos.faults.sitecustomize import POISON
from tests.support.chaos import Serve, Stage, Victim
from tests.support.figures import record
from tests.support.load import Crowd, Form, mixed_forms, pictures, post, until

pytestmark = pytest.mark.anyio

AT_ONCE = 8
STAGES: tuple[Stage, ...] = ("encode", "start", "step", "decode")


@dataclass(frozen=True, slots=True)
class Storm:
    """A number of requests, and the faults while they run."""

    requests: int
    kills: int
    stops: int
    errors: int


SHORT = Storm(requests=30, kills=1, stops=1, errors=3)
LONG = Storm(requests=500, kills=20, stops=5, errors=40)


@pytest.mark.parametrize(
    ("storm", "fixed"),
    [
        pytest.param(SHORT, "false", id="short"),
        pytest.param(LONG, "false", id="long", marks=pytest.mark.chaos),
        pytest.param(LONG, "true", id="long, one bucket", marks=pytest.mark.chaos),
    ],
)
@pytest.mark.timeout(1800)
async def test_every_request_is_answered_as_if_nothing_had_happened(
    serve: Serve, storm: Storm, fixed: str
) -> None:
    forms = mixed_forms(storm.requests, seed=storm.requests)
    with serve(fixed_bucket=fixed, step_timeout="4") as victim:
        calm = await Crowd(victim.url, forms, AT_ONCE).post_all()
        crowd = Crowd(victim.url, forms, AT_ONCE)
        raging = asyncio.create_task(rage(victim, crowd, storm))
        answers = await crowd.post_all()
        await raging
        assert [answer.status_code for answer in answers] == [200] * storm.requests
        exits = victim.exits()
        assert exits == {"signal": storm.kills, "timeout": storm.stops, "exit": 0}
        assert victim.struck > storm.errors - len(STAGES)  # the last of each may come too late
        within, same = compared(answers, calm)
        assert min(within) >= 0.999
        assert fixed == "false" or all(same)
        if storm is LONG:
            record(
                "storm: one bucket" if fixed == "true" else "storm: any bucket",
                {
                    "requests": storm.requests,
                    "answered_200": sum(a.status_code == 200 for a in answers),
                    "kills": storm.kills,
                    "stops": storm.stops,
                    "errors_raised": victim.struck,
                    "starts_that_failed_of_them": int(
                        victim.count("worker_restarts_total", cause="exit")
                    ),
                    "least_share_of_values_within_1": min(within),
                    "equal_to_the_byte": sum(same),
                    "replayed": int(victim.count("replayed_requests_total")),
                    "attempts_exhausted": int(victim.count("attempts_exhausted_total")),
                },
            )


async def rage(victim: Victim, crowd: Crowd, storm: Storm) -> None:
    """Kill, freeze and trip the worker at random moments.

    Between two of them everybody in flight at the one before the last is answered, so that no
    request is running in three.
    """
    random = Random(7)
    ends = [signal.SIGKILL] * storm.kills + [signal.SIGSTOP] * storm.stops
    random.shuffle(ends)
    before: set[int] = set()
    errors = iter(range(storm.errors))
    for number in ends:
        await until(lambda: victim.count("worker_up") == 1)
        for _ in range(-(-storm.errors // len(ends))):
            if next(errors, None) is not None:
                await victim.stumble(random.choice(STAGES), "error")
                await asyncio.sleep(random.random() / 10)
        at_last, before = before, set(crowd.in_flight)
        await until(lambda at_last=at_last: not at_last & crowd.in_flight)  # type: ignore[misc]
        await asyncio.sleep(random.random() / 5)
        assert crowd.in_flight, "the storm came too late"
        worker, exits_before = victim.service.worker_pid, sum(victim.exits().values())
        assert worker is not None
        before = set(crowd.in_flight)
        os.kill(worker, number)
        await until(lambda n=exits_before: sum(victim.exits().values()) > n)  # type: ignore[misc]


def compared(
    answers: Sequence[httpx.Response], others: Sequence[httpx.Response]
) -> tuple[list[float], list[bool]]:
    """Of each answer, the share of values within 1/255 of the other's; whether all equal."""
    pairs = zip(map(pictures, answers), map(pictures, others), strict=True)
    differences = [np.abs(one.astype(int) - other) for one, other in pairs]
    within = [float((difference <= 1).mean()) for difference in differences]
    return within, [not difference.any() for difference in differences]


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_request_that_ends_workers_fails_alone_among_fifty(serve: Serve) -> None:
    forms = mixed_forms(50, seed=3)
    forms.insert(5, {**forms[0], "seed": str(POISON), "n": "1"})
    with serve() as victim:
        answers = await Crowd(victim.url, forms, AT_ONCE).post_all()
        poison = answers.pop(5)
        assert [answer.status_code for answer in answers] == [200] * 50
        assert poison.status_code == 500
        assert poison.headers["x-should-retry"] == "false"
        assert poison.json()["type"] == "urn:variations:attempts-exhausted"
        ended = int(victim.count("worker_restarts_total", cause="signal"))
        assert ended == 3
        record("poison", {"good": 50, "good_answered": 50, "workers_it_ended": ended})


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_three_kills_in_a_row_around_one_request(serve: Serve) -> None:
    (other,) = mixed_forms(1, seed=4)
    form = {**other, "num_inference_steps": "100", "scheduler": "heun", "n": "8"}
    with serve() as victim:
        asking = asyncio.create_task(Crowd(victim.url, [form], 1).post_all())
        for kill in range(3):
            steps = victim.count("request_steps_total")
            await until(lambda n=steps: victim.count("request_steps_total") > n)  # type: ignore[misc]
            assert victim.service.worker_pid is not None
            os.kill(victim.service.worker_pid, signal.SIGKILL)
            await until(lambda n=kill: victim.exits()["signal"] > n)  # type: ignore[misc]
        (answer,) = await asking
        assert answer.status_code == 500
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["type"] == "urn:variations:attempts-exhausted"
        again, next_one = await Crowd(victim.url, [form, other], 1).post_all()
        assert (again.status_code, next_one.status_code) == (200, 200)
        record("three kills around one request", {"status": 500, "asked again": 200})


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_out_of_memory_fails_nobody_and_the_cap_recovers(serve: Serve) -> None:
    requests, shortages, cap = 200, 60, 16
    forms = mixed_forms(requests, seed=11)
    random = Random(5)
    with serve(max_rows=str(cap)) as victim:
        crowd = Crowd(victim.url, forms, AT_ONCE)
        running = asyncio.create_task(crowd.post_all())
        caps: set[float] = set()

        def ran_out() -> float:
            return victim.count("out_of_memory_total")

        for number in range(shortages):
            stage: Stage = "step" if number < 2 else random.choice(STAGES)
            await victim.stumble(stage, "memory")
            await until(lambda n=number: ran_out() > n or running.done())  # type: ignore[misc]
            caps.add(victim.count("row_cap"))
        answers = await running
        assert {answer.status_code for answer in answers} == {200}
        assert min(caps) < cap
        more = {**forms[0], "num_inference_steps": "100", "scheduler": "heun", "n": "8"}
        while victim.count("row_cap") < cap:
            (answer,) = await Crowd(victim.url, [more], 1).post_all()
            assert answer.status_code == 200
        record("memory", {"requests": requests, "failed": 0, "shortages": int(ran_out()),
                          "lowest_cap": int(min(caps)), "cap": cap})  # fmt: skip


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_clients_that_vanish_cost_two_steps_each_and_leave_nothing_behind(
    serve: Serve,
) -> None:
    clients, random = 1000, Random(1)
    forms = mixed_forms(clients, seed=1)
    with serve(max_queue="1000") as victim:
        await vanish_all(victim, forms[: clients // 5], random)  # until memory has settled
        resident, descriptors = victim.resident(), victim.descriptors()
        futures, _ = victim.futures_and_samples()
        await vanish_all(victim, forms, random)
        (answer,) = await Crowd(victim.url, forms[:1], 1).post_all()
        assert answer.status_code == 200
        assert victim.count("waiting_rows") == 0
        late = victim.count("wasted_steps_total", step="later")
        assert late == 0
        await until(lambda: victim.descriptors() <= descriptors)

        def nothing_left() -> bool:
            left, samples = victim.futures_and_samples()
            return left <= futures and samples == 0

        await until(nothing_left)
        growth = victim.resident() / resident
        assert growth <= 1.05
        record(
            "vanishing",
            {
                "clients": clients,
                "cancelled_pictures": int(victim.count("pictures_total", outcome="cancelled")),
                "first_wasted_steps": int(victim.count("wasted_steps_total", step="first")),
                "second_wasted_steps": int(victim.count("wasted_steps_total", step="second")),
                "later_wasted_steps": int(late),
                "futures_and_samples_left": 0,
                "resident_growth": round(growth, 3),
            },
        )


async def vanish_all(victim: Victim, forms: Sequence[Form], random: Random) -> None:
    """Post them all, 40 at a time, and hang up on each at a random moment."""

    async def vanish(client: httpx.AsyncClient, form: Form) -> None:
        task = asyncio.create_task(post(client, form))
        await asyncio.sleep(random.random() * 1.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=victim.url, timeout=300, limits=limits) as client:
        for start in range(0, len(forms), 40):
            await asyncio.gather(*(vanish(client, form) for form in forms[start : start + 40]))
    await until(lambda: victim.count("queue_requests") == 0)
