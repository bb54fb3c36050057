"""What watching requests costs, and whether told starts hold: ``python -m benchmarks.streaming``.

Four clients at once post requests for a while: for JSON, for events, and for events with previews,
in turns against one server. The throughput of each is told as a ratio over that of JSON.

Then many clients post the mix of ``benchmarks.peers`` and read their events: the first `queued`
says in how many seconds the first step is expected, and the first `step` shows when it was done.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from itertools import count
from typing import Annotated, Any

import httpx
import typer

from benchmarks.batching import gradient_png, serving
from benchmarks.peers.workload import requests
from benchmarks.report import PublishAnyway, recording, write

WATCHED = {"n": "2", "num_inference_steps": "25", "guidance_scale": "3.0"}
WAYS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "json": ({}, {}),
    "events": ({"accept": "text/event-stream"}, {}),
    "events and previews": ({"accept": "text/event-stream"}, {"previews": "true"}),
}
"""Headers and fields of each way of asking."""

NEAR_SECONDS, NEAR_SHARE = 1.0, 0.25
"""A told start holds where it was off by at most so much, or by this share of the wait."""


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

    async def starts(self, people: int, seconds: float) -> list[tuple[float, float]]:
        """Told and real seconds to the first step, of so many people who post the mix."""
        until = time.perf_counter() + seconds
        mix = requests("mix", 1)
        found: list[tuple[float, float]] = []

        async def ask_again() -> None:
            while time.perf_counter() < until:
                form = {name: str(value) for name, value in asdict(next(mix)).items()}
                told: tuple[float, float] | None = None
                started = False
                async for name, data in self.events(form, {"accept": "text/event-stream"}):
                    now = time.perf_counter()
                    if name == "queued" and told is None:
                        told = now, data["start_in"]
                    if name == "step" and told and not started:
                        started = True
                        found.append((told[1], now - told[0]))

        await asyncio.gather(*(ask_again() for _ in range(people)))
        return found


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


def summed_up(starts: list[tuple[float, float]]) -> dict[str, Any]:
    """How many told starts held, and how long the waits were."""
    held = [abs(real - told) <= max(NEAR_SECONDS, NEAR_SHARE * real) for told, real in starts]
    waits = sorted(real for _, real in starts)
    return {
        "requests": len(starts),
        "held": sum(held) / len(held),
        "median_wait_seconds": statistics.median(waits),
        "longest_wait_seconds": waits[-1],
        "median_off_seconds": statistics.median(abs(real - told) for told, real in starts),
    }


async def _measure(
    address: str, people: int, crowd: int, rounds: int, seconds: float, load_seconds: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    clients = Clients(address)
    watching = await measure_watching(clients, people, rounds, seconds)
    await clients.starts(crowd, min(20.0, load_seconds))  # what things cost has to be learned
    starts = await clients.starts(crowd, load_seconds)
    await clients.close()
    return watching, summed_up(starts)


def main(
    model: Annotated[str, typer.Option(help="`demo`, or a checkpoint.")] = "demo",
    device: Annotated[str, typer.Option()] = "auto",
    people: Annotated[int, typer.Option(help="Who watch at once.")] = 4,
    crowd: Annotated[int, typer.Option(help="Who post the mix at once.")] = 24,
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
