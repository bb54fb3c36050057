"""Sizes of batches, compared by closed loops on the mix: ``python -m benchmarks.peers.tune``.

The best one found so belongs into each peer's file.
"""

import os
from dataclasses import dataclass
from typing import Annotated

import typer

from benchmarks.peers.campaign import OUTSTANDING, Options, Task, perform
from benchmarks.peers.figures import throughput
from benchmarks.peers.systems import SYSTEMS

SIZES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Sized(Options):
    """Options with a size of batch."""

    size: int = 0

    def environment(self, system: str) -> dict[str, str]:
        """The variables that a system is started with."""
        return Options.environment(self, system) | {"PEER_BATCH": str(self.size)}


def main(
    only: Annotated[str, typer.Option(help="Systems, with commas; else all that batch.")] = "",
    seconds: Annotated[float, typer.Option(help="How long a closed loop lasts.")] = 120.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; else a core each.")] = None,
) -> None:
    """Print requests a second of every size, and how much others used of the processors."""
    batching = [
        name for name, system in SYSTEMS.items() if system.module and system.batches != "none"
    ]
    count = threads or len(os.sched_getaffinity(0))
    for system in only.split(",") if only else batching:
        for size in SIZES:
            task = Task(system, "mix", "closed", seed=1)
            outcome = perform(task, Sized(seconds, count, size=size))
            rate = throughput(outcome.records, OUTSTANDING)
            words = outcome.failed or ("too few answers" if rate is None else f"{rate:.2f} req/s")
            print(
                f"{system}, {size}: {words}; others used {outcome.origin['others']:.1%}", flush=True
            )


if __name__ == "__main__":
    typer.run(main)
