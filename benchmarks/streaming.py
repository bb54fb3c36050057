"""What watching requests costs, and whether told starts hold: ``python -m benchmarks.streaming``.

Four clients at once post requests for a while: for JSON, for events, and for events with previews,
in turns against one server. The throughput of each is told as a ratio over that of JSON.

Then the mix of ``benchmarks.peers`` comes at nine tenths of the rate that a crowd gets answered.
Each `queued` says in how many seconds the first step is expected, the first of them without knowing
who will come and overtake; the first `step` shows when it was done.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Annotated, Any

import httpx
import typer

from benchmarks.batching import gradient_png, serving
from benchmarks.peers.workload import Item, arrivals, requests
from benchmarks.report import PublishAnyway, recording, write

WATCHED = {"n": "2", "num_inference_steps": "25", "guidance_scale": "3.0"}
WAYS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "json": ({}, {}),
    "events": ({"accept": "text/event-stream"}, {}),
    "events and previews": ({"accept": "text/event-stream"}, {"previews": "true"}),
}
"""Headers and fields of each way of asking."""

LOAD = 0.9
"""Share of what a crowd gets answered at which the mix then comes."""

NEAR_SECONDS, NEAR_SHARE = 1.0, 0.25
"""A told start holds where it was off by at most so much, or by this share of the wait."""


@dataclass(frozen=True, slots=True)
class Waited:
    """The seconds to its first step that a request was told, each with what they came to be."""

    told: list[tuple[float, float]]


def _form(item: Item) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(item).items()}


class Clients:
    """People at one server, all with the same picture."""

    def __init__(self, server: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=server, timeout=600, limits=httpx.Limits(max_connections=None)
        )
        self._picture = gradient_png()

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def events(
        self, form: dict[str, str], headers: dict[str, str]
    ) -> AsyncIterator[tuple[str, Any]]:
        """Post a request; each event's name and data. An answer that is none is one event."""
        async with self._http.stream(
            "POST", "/variations", data=form, files={"image": self._picture}, headers=headers
        ) as response:
            response.raise_for_status()
            if "accept" not in headers:
                yield "done", json.loads(await response.aread())
                return
            name = ""
            async for line in response.aiter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)

    async def throughput(self, way: str, people: int, seconds: float) -> tuple[float, int]:
        """Pictures a second of so many people who ask again and again, and previews they saw."""
        headers, fields = WAYS[way]
        until = time.perf_counter() + seconds
        made, seen, seeds = 0, 0, count()

        async def ask_again() -> None:
            nonlocal made, seen
            while time.perf_counter() < until:
                form = WATCHED | fields | {"seed": str(next(seeds))}
                names = [name async for name, _ in self.events(form, headers)]
                if names[-1] != "done":
                    raise RuntimeError(f"a request ended with {names[-1]}")
                made += int(WATCHED["n"])
                seen += names.count("preview")

        began = time.perf_counter()
        await asyncio.gather(*(ask_again() for _ in range(people)))
        return made / (time.perf_counter() - began), seen

    async def crowded(self, people: int, seconds: float) -> float:
        """Requests a second of the mix that so many people get answered who ask again and again."""
        began, answered, mix = time.perf_counter(), 0, requests("mix", 1)

        async def ask_again() -> None:
            nonlocal answered
            while time.perf_counter() < began + seconds:
                async for _ in self.events(_form(next(mix)), {}):
                    answered += 1

        await asyncio.gather(*(ask_again() for _ in range(people)))
        return answered / (time.perf_counter() - began)

    async def starts(self, rate: float, seconds: float) -> list[Waited]:
        """What was told of the starts of the mix, which comes at so many requests a second."""
        began, mix = time.perf_counter(), requests("mix", 2)

        async def ask(moment: float, form: dict[str, str]) -> Waited:
            await asyncio.sleep(began + moment - time.perf_counter())
            told: list[tuple[float, float]] = []
            started = 0.0
            async for name, data in self.events(form, {"accept": "text/event-stream"}):
                now = time.perf_counter()
                if name == "queued":
                    told.append((now, data["start_in"]))
                started = started or (now if name == "step" else 0.0)
            return Waited([(start_in, started - now) for now, start_in in told if now < started])

        moments = arrivals(rate, seconds, seed=3)
        asking = (ask(moment, _form(next(mix))) for moment in moments)
        return [each for each in await asyncio.gather(*asking) if each.told]


async def measure_watching(
    clients: Clients, people: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """The throughput of each of :data:`WAYS`, in turns; ratios of one round, and their median."""
    for way in WAYS:
        await clients.throughput(way, people, min(5.0, seconds))
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    previews = 0
    for number in range(rounds):
        order = list(WAYS) if number % 2 == 0 else list(reversed(WAYS))
        for way in order:
            rate, seen = await clients.throughput(way, people, seconds)
            runs[way].append(rate)
            previews += seen
    base = runs["json"]
    return [
        {
            "asked for": way,
            "pictures_per_second": statistics.median(rates),
            "over_json": statistics.median(a / b for a, b in zip(rates, base, strict=True)),
            "previews": previews if "previews" in way else 0,
        }
        for way, rates in runs.items()
    ]


def summed_up(waited: list[Waited]) -> dict[str, Any]:
    """How many told starts held, those told at first and all, and how long the waits were."""
    first = [each.told[0] for each in waited]
    every = [one for each in waited for one in each.told]
    waits = sorted(real for _, real in first)
    return {
        "requests": len(first),
        "first_told_held": sum(map(_held, first)) / len(first),
        "told": len(every),
        "told_held": sum(map(_held, every)) / len(every),
        "median_wait_seconds": statistics.median(waits),
        "longest_wait_seconds": waits[-1],
    }


def _held(one: tuple[float, float]) -> bool:
    told, real = one
    return abs(real - told) <= max(NEAR_SECONDS, NEAR_SHARE * real)


async def _measure(
    address: str, people: int, crowd: int, rounds: int, seconds: float, load_seconds: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    clients = Clients(address)
    watching = await measure_watching(clients, people, rounds, seconds)
    # By which the service learns what things cost as well.
    capacity = await clients.crowded(crowd, load_seconds / 4)
    starts = await clients.starts(LOAD * capacity, load_seconds)
    await clients.close()
    return watching, {"capacity": capacity, "rate": LOAD * capacity, **summed_up(starts)}


def main(
    model: Annotated[str, typer.Option(help="`demo`, or a checkpoint.")] = "demo",
    device: Annotated[str, typer.Option()] = "auto",
    people: Annotated[int, typer.Option(help="Who watch at once.")] = 4,
    crowd: Annotated[int, typer.Option(help="Who find out the rate of the mix.")] = 24,
    rounds: Annotated[int, typer.Option(help="Rounds of the three ways.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of each way in a round.")] = 12.0,
    load_seconds: Annotated[float, typer.Option(help="Of the mix.")] = 120.0,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and hand in the figures."""
    environment = {
        "VARIATIONS_MODEL": model, "VARIATIONS_DEVICE": device,
        "VARIATIONS_PREVIEWS": "on", "VARIATIONS_MAX_QUEUE": str(4 * crowd),
    }  # fmt: skip
    with recording() as run, serving(environment) as address:
        watching, starts = asyncio.run(
            _measure(address, people, crowd, rounds, seconds, load_seconds)
        )
    figures = {"model": model, "people": people, "watching": watching, "starts": starts}
    typer.echo(json.dumps(starts, indent=2))
    write("streaming", run, figures, watching, publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
