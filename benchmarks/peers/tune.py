"""Sizes of batches and numbers of torch's threads, compared by closed loops.

``python -m benchmarks.peers.tune`` prints them. The best size found so belongs into each peer's
file, and the best number of threads, which is this machine's, into ``--threads`` of the comparison.
"""

import os
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated

import typer

from benchmarks.peers.campaign import OUTSTANDING, Options, Task, perform
from benchmarks.peers.figures import throughput
from benchmarks.peers.systems import SYSTEMS
from benchmarks.peers.workload import Load


@dataclass(frozen=True, slots=True)
class Sized(Options):
    """Options with a size of batch."""

    size: int = 0

    def environment(self, system: str) -> dict[str, str]:
        """The variables that a system is started with."""
        return Options.environment(self, system) | {"PEER_BATCH": str(self.size)}


def main(
    only: Annotated[str, typer.Option(help="Systems, with commas; else all that batch.")] = "",
    load: Annotated[Load, typer.Option(help="What is asked for.")] = "mix",
    seconds: Annotated[float, typer.Option(help="How long a closed loop lasts.")] = 120.0,
    sizes: Annotated[str, typer.Option(help="Of batches, with commas.")] = "4,8,16,32",
    threads: Annotated[str, typer.Option(help="Of torch, with commas; else one, and all.")] = "",
) -> None:
    """Print requests a second of every size and number, and how much others used of the cores."""
    batching = [
        name for name, system in SYSTEMS.items() if system.module and system.batches != "none"
    ]
    cores = len(os.sched_getaffinity(0))
    counts = [int(each) for each in threads.split(",")] if threads else sorted({1, cores})
    systems = only.split(",") if only else batching
    task = partial(Task, load=load, loop="closed", seed=1)
    for system, size, count in product(systems, map(int, sizes.split(",")), counts):
        outcome = perform(task(system), Sized(seconds, {system: count}, size=size))
        rate = throughput(outcome.records, OUTSTANDING)
        words = outcome.failed or ("too few answers" if rate is None else f"{rate:.2f} req/s")
        others = outcome.origin["others"]
        print(f"{system}, {size}, {count} threads: {words}; others used {others:.1%}", flush=True)


if __name__ == "__main__":
    typer.run(main)
