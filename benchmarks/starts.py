"""Row caps that starts choose on a quiet and on a busy machine: ``python -m benchmarks.starts``.

Real workers are started one after the other, in turn with nothing beside them and beside processes
that never rest. What each measured at its start decides its row cap and its threads.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from benchmarks.contention import neighbours, worker
from benchmarks.report import PublishAnyway, Table, recording, write

AIM = 2.0
"""Times the smallest cap that the largest may be."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a start beside so many neighbours chose, and milliseconds of its steps by rows."""

    neighbours: int
    row_cap: int
    reason: str
    threads: int
    step_ms: dict[int, float]


async def start(model: str, beside: int) -> Chosen:
    """Start a worker beside so many neighbours, and end it once it is ready."""
    with neighbours(beside):
        async with worker(model, None) as made:
            found = made.ready.measured
    milliseconds = {rows: round(1000 * each, 2) for rows, each in found.step_seconds.items()}
    return Chosen(beside, found.row_cap, found.cap_reason.value, found.threads, milliseconds)


async def measure(model: str, number: int, beside: Sequence[int]) -> list[Chosen]:
    """So many starts beside each number of neighbours, in turn."""
    starts = []
    for _ in range(number):
        for count in beside:
            starts.append(await start(model, count))
            print(starts[-1], flush=True)
    return starts


def table(starts: Sequence[Chosen]) -> Table:
    """A row for each number of neighbours, and one for all starts."""
    counts = sorted({one.neighbours for one in starts})
    groups = {f"{count}": [one for one in starts if one.neighbours == count] for count in counts}
    groups["all"] = list(starts)
    lines: list[Mapping[str, object]] = []
    for name, group in groups.items():
        caps = sorted(one.row_cap for one in group)
        lines.append(
            {
                "neighbours": name,
                "row caps": ", ".join(map(str, caps)),
                "threads": ", ".join(str(count) for count in sorted(one.threads for one in group)),
                "largest over smallest": caps[-1] / caps[0],
                "aim": f"≤ {AIM:g}",
            }
        )
    return lines


def main(
    model: Annotated[str, typer.Option(help="`demo` or a checkpoint.")] = "demo",
    number: Annotated[int, typer.Option("--starts", min=1, help="Beside each number.")] = 10,
    busy: Annotated[
        int | None, typer.Option(min=1, help="Neighbours of the busy ones; else one a core.")
    ] = None,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and write the figures."""
    cores = len(os.sched_getaffinity(0))
    with recording() as run:
        starts = asyncio.run(measure(model, number, (0, busy or cores)))
    figures = [asdict(one) for one in starts]
    write("starts", run, figures, table(starts), publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
