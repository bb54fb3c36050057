"""Steps beside busy neighbours, and under a CPU quota: ``python -m benchmarks.contention``.

Real workers, each in its own process with the environment that the service gives it: one that
chooses its threads by itself, and one for each fixed number (``OMP_NUM_THREADS``). They take turns
at steps of 2 and of 8 rows, alone and beside 1, 2 and 4 processes that never rest, all of normal
priority. One more worker that chooses is started beside each number of neighbours: what it measures
at its start is then disturbed from the beginning. Last, workers are started in control groups that
allow one CPU, which takes root and a cgroup file system that can be written.
"""

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from app.ipc.messages import Start
from app.parameters import ModelConfig, Scheduler
from app.sizing import Bench, bench
from benchmarks.report import Plot, PublishAnyway, Table, recording, write

ROWS = (2, 8)
CHOSEN = "as it comes"
CHOSEN_BESIDE = "as it comes, started beside them"
CGROUPS = Path("/sys/fs/cgroup")
SETTLING_STEPS = 100
"""Steps before the first measurement: a worker looks at its threads again after some of them."""

Seconds = dict[str, dict[int, list[float]]]
"""Seconds of steps by worker and rows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Medians of all workers at one number of neighbours, or under a quota."""

    name: str
    neighbours: int
    quota: float | None
    medians: dict[str, dict[int, float]]


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes that never rest."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def one_cpu(name: str) -> Iterator[Path]:
    """The process list of a new control group that may use one CPU's time.

    Raises :class:`OSError` where none can be made.
    """
    v2 = (CGROUPS / "cgroup.controllers").exists()
    group = (CGROUPS if v2 else CGROUPS / "cpu") / f"contention-{os.getpid()}-{name}"
    group.mkdir()
    try:
        if v2:
            (group / "cpu.max").write_text("100000 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("100000")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


@contextmanager
def inside(processes: Path | None) -> Iterator[None]:
    """Whatever is started here is in that control group; this process only meanwhile."""
    if processes is None:
        yield
        return
    before = _own_group() / "cgroup.procs"
    processes.write_text(str(os.getpid()))
    try:
        yield
    finally:
        before.write_text(str(os.getpid()))


def _own_group() -> Path:
    """The folder of this process's control group, of the CPU's controller or of version 2."""
    found = CGROUPS
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return CGROUPS / "cpu" / name.lstrip("/")
        if not controllers:
            found = CGROUPS / name.lstrip("/")
    return found


@contextmanager
def fixed_threads(number: int | None) -> Iterator[None]:
    """What is started here has so many threads, or chooses."""
    before = os.environ.pop("OMP_NUM_THREADS", None)
    if number is not None:
        os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


@asynccontextmanager
async def worker(
    model: str, threads: int | None, processes: Path | None = None
) -> AsyncIterator[Bench]:
    """A worker as the service starts it, on the CPU, ready."""
    start = Start(ModelConfig(model, device="cpu"), None, False, log_level="warning")
    with fixed_threads(threads), inside(processes):
        # Its start is over before others' environment and group are set: they start in turn.
        async with AsyncExitStack() as stack:
            made = await stack.enter_async_context(bench(start))
            leave = stack.pop_all()
    async with leave:
        yield made


async def steps(made: Bench, rows: int, number: int) -> list[float]:
    """Seconds of ``number`` steps of so many rows: pictures with guidance, two rows each."""
    parameters = made.ready.model.defaults(
        n=rows // 2, guidance_scale=3.0, num_inference_steps=number, scheduler=Scheduler.DDIM
    )
    work = await made.run([parameters])
    return [step.seconds for step in work.steps if step.rows == rows]


async def taking_turns(workers: Mapping[str, Bench], rounds: int, number: int) -> Seconds:
    """Steps of all workers, one after the other within a round, after some to settle."""
    for name, made in workers.items():
        if name in (CHOSEN, CHOSEN_BESIDE):
            await steps(made, ROWS[0], SETTLING_STEPS)
    found: Seconds = {name: {rows: [] for rows in ROWS} for name in workers}
    for _ in range(rounds):
        for rows in ROWS:
            for name, made in workers.items():
                found[name][rows] += await steps(made, rows, number)
    return found


def medians(found: Seconds) -> dict[str, dict[int, float]]:
    """The median of each worker's steps by rows."""
    return {
        name: {rows: statistics.median(seconds) for rows, seconds in by_rows.items() if seconds}
        for name, by_rows in found.items()
    }


def fixed_name(threads: int) -> str:
    """The name of the worker with a fixed number of threads."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


async def measure(
    model: str, counts: Sequence[int], cores: int, rounds: int, number: int
) -> list[Place]:
    """Every number of neighbours, then the quota."""
    places = []
    fixed = sorted({1, max(1, cores // 2), cores})
    async with AsyncExitStack() as stack:
        workers = {CHOSEN: await stack.enter_async_context(worker(model, None))}
        for threads in fixed:
            made = await stack.enter_async_context(worker(model, threads))
            workers[fixed_name(threads)] = made
        for count in counts:
            with neighbours(count):
                async with worker(model, None) as beside:
                    all_of_them = workers | ({CHOSEN_BESIDE: beside} if count else {})
                    found = await taking_turns(all_of_them, rounds, number)
            places.append(Place(f"{count} neighbours", count, None, medians(found)))
            print(places[-1], flush=True)
    return places


async def measure_quota(model: str, cores: int, rounds: int, number: int) -> Place:
    """Workers that may use one CPU's time. Raises :class:`OSError` where there is no such group."""
    async with AsyncExitStack() as stack:
        workers = {}
        for threads in (None, 1, cores):
            name = CHOSEN if threads is None else fixed_name(threads)
            group = stack.enter_context(one_cpu(str(threads)))
            workers[name] = await stack.enter_async_context(worker(model, threads, group))
        return Place(
            "a quota of one CPU", 0, 1.0, medians(await taking_turns(workers, rounds, number))
        )


def table(places: Sequence[Place]) -> Table:
    """A row for each place and number of rows."""
    names = list(dict.fromkeys(name for place in places for name in place.medians))
    lines: list[Mapping[str, object]] = []
    for place in places:
        for rows in ROWS:
            ms = {name: 1000 * by[rows] for name, by in place.medians.items() if rows in by}
            chosen = [ms[name] for name in (CHOSEN, CHOSEN_BESIDE) if name in ms]
            fixed = [each for name, each in ms.items() if name not in (CHOSEN, CHOSEN_BESIDE)]
            one = ms.get(fixed_name(1))
            lines.append(
                {"beside": place.name, "rows": rows}
                | {f"{name}, ms": ms.get(name) for name in names}
                | {
                    "over one thread": max(chosen) / one if chosen and one else None,
                    "over the best fixed": max(chosen) / min(fixed) if chosen and fixed else None,
                }
            )
    return lines


def plots(places: Sequence[Place]) -> list[Plot]:
    """Bars of the steps of 8 rows."""
    lines: dict[str, list[tuple[float | str, float]]] = {}
    for place in places:
        for name, by_rows in place.medians.items():
            if ROWS[-1] in by_rows:
                lines.setdefault(name, []).append((place.name, 1000 * by_rows[ROWS[-1]]))
    return [Plot(f"A step of {ROWS[-1]} rows", "", "milliseconds", lines)]


def main(
    model: Annotated[str, typer.Option(help="`demo` or a checkpoint.")] = "demo",
    counts: Annotated[str, typer.Option("--neighbours", help="Numbers of them.")] = "0,1,2,4",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each worker.")] = 5,
    number: Annotated[int, typer.Option("--steps", min=2, help="Steps of a turn.")] = 20,
    quota: Annotated[bool, typer.Option(help="Also under a quota of one CPU.")] = True,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and write the figures."""
    cores = len(os.sched_getaffinity(0))
    numbers = [int(count) for count in counts.split(",")]
    with recording() as run:
        places = asyncio.run(measure(model, numbers, cores, rounds, number))
        if quota:
            try:
                places.append(asyncio.run(measure_quota(model, cores, rounds, number)))
            except OSError as error:
                print(f"No quota: {error.filename}: {error.strerror}; it takes root, or --no-quota")
                raise typer.Exit(1) from None
    figures = [asdict(place) for place in places]
    write("contention", run, figures, table(places), plots(places), publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
