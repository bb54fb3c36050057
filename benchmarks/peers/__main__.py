"""The command of the comparison: see ``python -m benchmarks.peers --help``."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers import figures, results, workload
from benchmarks.peers.campaign import Campaign, Options, Task, rounds
from benchmarks.peers.systems import PEERS, ROOT, SYSTEMS
from benchmarks.peers.workload import Load
from benchmarks.report import PublishAnyway, write

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0)
"""Shares among which the highest rate that is answered in time is looked for."""

QUICK = ("service", "request_batcher", "step_batcher")


def main(
    quick: Annotated[
        bool, typer.Option(help="Some minutes: three systems, the mix, 100 %, one seed, 40 s.")
    ] = False,
    only: Annotated[str, typer.Option(help="Systems, with commas; else all.")] = "",
    loads: Annotated[str, typer.Option(help="`mix`, `uniform` or both.")] = "mix,uniform",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each rate.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long a load lasts.")] = 90.0,
    shares: Annotated[
        str, typer.Option(help="Rates, of the best peer's capacity, in their order; may be empty.")
    ] = "1,0.8,0.5,1.5",
    threads: Annotated[
        str,
        typer.Option(help="Of torch, as system=number, with commas; else a peer has one a core."),
    ] = "",
    search: Annotated[bool, typer.Option(help="Look for the highest rate in time.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Where runs are kept, to go on.")] = None,
    fresh: Annotated[bool, typer.Option(help="Forget the runs that are there.")] = False,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Compare this service as it comes with its peers, on the CPU with the built-in model.

    Names of systems: service, fastapi_lock, on_litserve, on_bentoml, on_mosec, on_ray,
    request_batcher, step_batcher. A run that ends early goes on where it was.
    """
    chosen = [name for name in only.split(",") if name] or list(QUICK if quick else SYSTEMS)
    kept = folder or ROOT / "out" / "peers" / ("quick" if quick else "full")
    seed_list = [1] if quick else list(range(1, seeds + 1))
    rates = (1.0,) if quick else tuple(float(share) for share in shares.split(",") if share)
    load_list = _checked(chosen, ["mix"] if quick else loads.split(","))
    if fresh:
        shutil.rmtree(kept, ignore_errors=True)
    options = Options(
        seconds=40.0 if quick else seconds,
        threads=_threads(threads),
        repeats=1 if quick else 3,
    )
    try:
        campaign = Campaign(kept, options, publish_anyway)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; --fresh forgets them") from None
    compare(campaign, chosen, load_list, rates, seed_list, search=search and not quick)


def _checked(chosen: list[str], loads: list[str]) -> list[Load]:
    """The loads, once all names are known to exist and the peers' environment is there."""
    for name in chosen:
        if name not in SYSTEMS:
            raise typer.BadParameter(
                f"{name!r} is none of {', '.join(SYSTEMS)}", param_hint="--only"
            )
        if SYSTEMS[name].extra and not PEERS.exists():
            raise typer.BadParameter(f"{name} needs .peers: `make peers` makes it")
    known = [load for load in workload.LOADS if load in loads]
    if len(known) != len(loads):
        raise typer.BadParameter(f"{loads} are not all of {workload.LOADS}", param_hint="--loads")
    return known


def _threads(said: str) -> dict[str, int]:
    """The numbers of threads that are named."""
    threads = {}
    for each in said.split(",") if said else []:
        name, _, number = each.partition("=")
        if name not in SYSTEMS or not number.isdecimal() or int(number) < 1:
            words = f"{each!r} is not system=number, with a system of {', '.join(SYSTEMS)}"
            raise typer.BadParameter(words, param_hint="--threads")
        threads[name] = int(number)
    return threads


def compare(
    campaign: Campaign,
    systems: list[str],
    loads: list[Load],
    shares: tuple[float, ...],
    seeds: list[int],
    *,
    search: bool,
) -> None:
    """Run all that is missing, and write the results after every stage."""
    highest: dict[tuple[str, Load], float] = {}
    for load in loads:
        campaign.solo(load)
        for system, seed in rounds(systems, seeds):
            campaign.done(Task(system, load, "closed", seed))
    capacities = {load: _capacity(campaign, systems, load, seeds) for load in loads}
    publish(campaign, shares, highest)
    for share in shares:
        for load in loads:
            for system, seed in rounds(systems, seeds):
                campaign.open_loop(system, load, share, capacities[load], [seed])
        publish(campaign, shares, highest)
    if not search:
        return
    for load in loads:
        for system in systems:

            def in_time(share: float, system: str = system, load: Load = load) -> float:
                records = campaign.open_loop(system, load, share, capacities[load], seeds)
                return figures.in_time(records, campaign.solo(load))

            known = {share: in_time(share) for share in shares}
            best = results.highest_rate(GRID, in_time, known)
            highest[system, load] = best * capacities[load]
    publish(campaign, shares, highest)


def _capacity(campaign: Campaign, systems: list[str], load: Load, seeds: list[int]) -> float:
    """The most requests a second of a peer that batches by request, or else of any system."""
    by_request = [name for name in systems if results.by_request(name)]
    found = max(campaign.capacity(name, load, seeds) for name in by_request or systems)
    if not found:
        raise typer.BadParameter("no peer answered enough requests: --seconds is too short")
    return found


def publish(
    campaign: Campaign, shares: tuple[float, ...], highest: dict[tuple[str, Load], float]
) -> None:
    """Write the figures so far."""
    found = results.collect(campaign, highest)
    name = "peers" if campaign.folder.name == "full" else f"peers-{campaign.folder.name}"
    content = {
        "options": {key: str(value) for key, value in _options(campaign).items()},
        "solo_seconds": {load: campaign.solo(load) for load in {one.load for one in found}},
        "systems": results.as_json(found),
    }
    run, anyway = campaign.origin(), campaign.accept_disturbed
    ordered = tuple(sorted(shares))
    table, plots = results.table(found, ordered), results.plots(found)
    write(name, run, content, table, plots, publish_anyway=anyway)
    compared = results.compared(found)
    if compared:
        write(f"{name}-compared", run, list(compared), compared, publish_anyway=anyway)


def _options(campaign: Campaign) -> dict[str, object]:
    """The options, without what is of this machine alone."""
    options = campaign.options
    return {
        "seconds": options.seconds,
        "threads": {name: options.threads_of(name) or "its own choice" for name in SYSTEMS},
        "model": options.model.name,
    }


if __name__ == "__main__":
    typer.run(main)
