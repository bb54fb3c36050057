"""The load generator, a process of its own: a plan as JSON on its input, a record a line as output.

In an open loop each request is posted at its moment, whatever has become of those before; in a
closed one as many as ``outstanding`` are under way until ``seconds`` are over.
"""

import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from benchmarks.peers.workload import Item

Dialect = Literal["form", "json", "bentoml"]
"""How a request is written: the service's multipart form, the peers' JSON, or a list of one."""

PATIENCE = 600.0
"""Seconds after which an answer is given up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be posted where. ``arrivals``, in seconds, is one for each item, or empty."""

    url: str
    dialect: Dialect
    picture: str
    items: Sequence[Item]
    arrivals: Sequence[float] = ()
    outstanding: int = 1
    seconds: float = PATIENCE

    def to_json(self) -> str:
        """The plan as :meth:`from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan that was written."""
        fields = json.loads(text)
        return cls(**fields | {"items": [Item(**item) for item in fields["items"]]})


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a request: ``sent`` and ``seconds`` of waiting, both in seconds.

    ``late`` is by how much the generator itself missed its moment. ``status`` is that of HTTP, 0
    where there was none, and ``error`` says what was wrong with an answer that is no good.
    """

    kind: str
    sent: float
    seconds: float
    status: int
    error: str | None = None
    late: float = 0.0

    @property
    def good(self) -> bool:
        """Whether all its pictures came."""
        return self.error is None


async def run(
    plan: Plan, picture: bytes, client: httpx.AsyncClient, tell: Callable[[Record], None]
) -> None:
    """Post all of ``plan``, telling the record of each request as soon as it is answered."""
    began = time.perf_counter()

    async def post(item: Item, due: float | None = None) -> None:
        sent = time.perf_counter() - began
        status, error = await _post(client, plan, item, picture)
        waited = time.perf_counter() - began - sent
        tell(Record(item.kind, sent, waited, status, error, sent - due if due is not None else 0.0))

    if plan.arrivals:
        async with asyncio.TaskGroup() as group:
            for item, due in zip(plan.items, plan.arrivals, strict=True):
                await asyncio.sleep(due - (time.perf_counter() - began))
                group.create_task(post(item, due))
        return

    line = iter(plan.items)

    async def one_after_another() -> None:
        for item in line:
            await post(item)

    try:
        async with asyncio.timeout(plan.seconds):
            await asyncio.gather(*(one_after_another() for _ in range(plan.outstanding)))
    except TimeoutError:
        pass  # what is still under way belongs to no rate


async def _post(
    client: httpx.AsyncClient, plan: Plan, item: Item, picture: bytes
) -> tuple[int, str | None]:
    """The status, and what was wrong."""
    try:
        response = await client.post(plan.url, **_written(plan.dialect, item, picture))
        if response.status_code != httpx.codes.OK:
            return response.status_code, response.text[:200]
        answer = response.json()
        answer = answer[0] if plan.dialect == "bentoml" else answer
        got = sum(1 for one in answer["variations"] if one["b64_json"] or one["flagged"])
        wrong = None if got == item.n else f"{got} pictures instead of {item.n}"
        return response.status_code, wrong
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return 0, f"{type(error).__name__}: {error}"[:200]


def _written(dialect: Dialect, item: Item, picture: bytes) -> dict[str, Any]:
    """The request as arguments of httpx."""
    if dialect == "form":
        form = {name: str(value) for name, value in asdict(item).items()}
        return {"files": {"image": ("picture", picture)}, "data": form}
    fields = asdict(item) | {"image": base64.b64encode(picture).decode()}
    return {"json": {"inputs": [fields]} if dialect == "bentoml" else fields}


async def _main(plan: Plan, picture: bytes) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client:
        await run(
            plan, picture, client, lambda record: print(json.dumps(asdict(record)), flush=True)
        )


if __name__ == "__main__":
    plan = Plan.from_json(sys.stdin.read())
    asyncio.run(_main(plan, Path(plan.picture).read_bytes()))
