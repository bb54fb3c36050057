"""Turns of callers at a few decoders, and how long a further job would wait."""

import asyncio

import pytest

from app.pictures.turns import Turns

pytestmark = pytest.mark.anyio


def caller_of(name: str) -> str:
    """A job's name begins with its caller's."""
    return name.partition(" ")[0]


class Bench:
    """Jobs that end when the test says so, by a clock that it sets."""

    def __init__(self, at_once: int) -> None:
        self.now = 100.0
        self.turns = Turns(at_once, lambda: self.now)
        self.running: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Future[None]] = {}

    async def add(self, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.get_running_loop().create_future()
            self._tasks[name] = asyncio.create_task(self._work(name))
        await self._settled()

    async def end(self, name: str, error: Exception | None = None) -> None:
        if error:
            self._ends[name].set_exception(error)
        else:
            self._ends[name].set_result(None)
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self._settled()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self._settled()

    async def take(self, caller: str, seconds: float) -> None:
        """One job of this length, from its beginning to its end."""
        name = f"{caller} for {seconds}"
        await self.add(name)
        self.now += seconds
        await self.end(name)

    async def _work(self, name: str) -> None:
        async with self.turns.turn(caller_of(name)):
            self.running.append(name)
            try:
                await self._ends[name]
            finally:
                self.running.remove(name)

    async def _settled(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_as_many_jobs_run_as_there_is_room_for() -> None:
    bench = Bench(2)
    await bench.add(" 1", " 2", " 3")  # of callers without a name
    assert bench.running == [" 1", " 2"]
    assert bench.turns.waiting == 1
    await bench.end(" 1")
    assert bench.running == [" 2", " 3"]
    assert bench.turns.waiting == 0


@pytest.mark.parametrize("at_once", [2, 4])
async def test_a_callers_many_jobs_do_not_hold_up_anothers_one(at_once: int) -> None:
    bench = Bench(at_once)
    await bench.add(*(f"many {number}" for number in range(12)))
    assert len(bench.running) == at_once - 1
    assert bench.turns.wait("neighbour") == 0
    await bench.add("neighbour 1")
    assert "neighbour 1" in bench.running


async def test_where_there_is_one_decoder_anothers_job_waits_for_the_rest_of_one() -> None:
    bench = Bench(1)
    await bench.add(*(f"many {number}" for number in range(12)))
    await bench.add("neighbour 1")
    await bench.end("many 0")
    assert bench.running == ["neighbour 1"]


async def test_callers_with_as_many_running_are_served_in_turn() -> None:
    bench = Bench(1)
    await bench.add("a 1", "a 2", "a 3", "b 1", "b 2", "c 1")
    order = []
    while bench.running:
        order += bench.running
        await bench.end(bench.running[0])
    assert order == ["a 1", "b 1", "c 1", "a 2", "b 2", "a 3"]


async def test_several_jobs_wait_for_the_last_of_them() -> None:
    bench = Bench(2)
    await bench.take("", seconds=1.0)
    assert [bench.turns.wait("", jobs) for jobs in (1, 2, 3, 4, 5)] == [0.0, 0.0, 1.0, 1.0, 2.0]


async def test_one_that_leaves_while_it_waits_or_runs_makes_room() -> None:
    bench = Bench(1)
    await bench.add("a 1", "a 2", "b 1", "b 2")
    await bench.cancel("a 2")
    assert bench.turns.waiting == 2
    await bench.cancel("a 1")
    assert bench.running == ["b 1"]
    await bench.cancel("b 1")
    assert bench.running == ["b 2"]
    await bench.cancel("b 2")
    assert bench.turns.waiting == 0
    await bench.add("c 1")
    assert bench.running == ["c 1"]


async def test_one_that_leaves_just_as_its_turn_comes_makes_room() -> None:
    bench = Bench(1)
    await bench.add("a 1", "b 1", "c 1")
    bench._tasks["b 1"].cancel()
    await bench.end("a 1")
    assert bench.running == ["c 1"]


async def test_a_job_that_fails_makes_room_and_is_learned_from() -> None:
    bench = Bench(1)
    await bench.add("a 1", "a 2")
    bench.now += 3.0
    await bench.end("a 1", ValueError("no picture"))
    assert bench.running == ["a 2"]
    assert bench.turns.wait("a") == pytest.approx(3.0)


# Predictions


@pytest.mark.parametrize("at_once", [1, 3])
async def test_where_there_is_room_nobody_waits(at_once: int) -> None:
    bench = Bench(at_once)
    await bench.take("a", 9.0)
    await bench.add(*(f"a {number}" for number in range(at_once - 2)))
    assert bench.turns.wait("a") == bench.turns.wait("b") == 0.0


async def test_a_job_takes_as_long_as_its_callers_own_did_of_late() -> None:
    bench = Bench(1)
    await bench.take("slow", 10.0)
    await bench.take("quick", 0.5)
    for caller, seconds in (("slow", 10.0), ("quick", 0.5), ("unknown", 0.5)):
        await bench.add(f"{caller} 1")
        assert bench.turns.wait("other") == pytest.approx(seconds)
        await bench.cancel(f"{caller} 1")
    for _ in range(30):
        await bench.take("slow", 1.0)
    await bench.add("slow 1")
    assert bench.turns.wait("other") == pytest.approx(1.0, rel=0.05)


async def test_the_first_of_the_jobs_that_run_is_waited_for() -> None:
    bench = Bench(2)
    for caller in ("slow", "also"):
        await bench.take(caller, 10.0)
    await bench.add("slow 1")
    bench.now += 2.0
    await bench.add("also 1")
    assert bench.turns.wait("quick") == pytest.approx(8.0)


async def test_one_that_takes_longer_than_was_known_is_half_done() -> None:
    bench = Bench(1)
    await bench.take("a", 0.1)
    await bench.add("a slow", "a next")
    began = bench.now
    for passed in (1.0, 4.0, 20.0):
        bench.now = began + passed
        # The rest of the first; and then the next one, which seems to be like it.
        assert bench.turns.wait("b") == pytest.approx(passed)
        assert bench.turns.wait("a") == pytest.approx(2 * passed)


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("caller", ["many", "neighbour", "third", ""])
async def test_a_prediction_is_what_happens(at_once: int, caller: str) -> None:
    bench = Bench(at_once)
    for known, seconds in (("many", 9.0), ("third", 2.0), ("neighbour", 0.125), ("", 1.0)):
        await bench.take(known, seconds)
    await bench.add(*(f"many {number}" for number in range(12)), "third 1", "third 2")
    predicted = bench.turns.wait(caller)
    await bench.add(f"{caller} probe")
    assert await started_after(bench, f"{caller} probe") == pytest.approx(predicted)


@pytest.mark.parametrize("at_once", [1, 2, 4])
async def test_a_caller_without_a_name_waits_as_is_predicted(at_once: int) -> None:
    bench = Bench(at_once)
    await bench.take("", 3.0)
    await bench.add(*(f" {number}" for number in range(2 * at_once)))
    assert bench.turns.wait("") == pytest.approx(6.0)


async def started_after(bench: Bench, name: str) -> float:
    """Run the jobs, each as long as is known of its caller; seconds until this one begins."""
    began = bench.now
    since: dict[str, float] = {}
    while name not in bench.running:
        since |= {one: bench.now for one in bench.running if one not in since}
        ends = {one: since[one] + bench.turns._seconds[caller_of(one)] for one in bench.running}
        first = min(ends, key=lambda one: ends[one])
        bench.now = ends[first]
        await bench.end(first)
    return bench.now - began
