"""The tables, the plots and the comparison that a campaign's runs give."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.peers.campaign import OUTSTANDING, Campaign, Outcome
from benchmarks.peers.figures import GOOD_SHARE, TIMES_SOLO, Latencies, throughput
from benchmarks.peers.load import Record
from benchmarks.peers.systems import SERVICE, STEP_BATCHER, SYSTEMS
from benchmarks.peers.workload import LOADS, Load
from benchmarks.report import Plot, Table


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one system under one load. ``open`` maps shares of the best peer's capacity."""

    system: str
    load: Load
    closed: float | None
    single: float | None
    open: Mapping[float, Latencies] = field(default_factory=dict)
    highest_rate: float | None = None


def collect(campaign: Campaign, highest: Mapping[tuple[str, Load], float]) -> list[Figures]:
    """The figures of all that has been run so far; ``highest`` rates are found by a search."""
    found = []
    for load in LOADS:
        of_load = [o for o in campaign.outcomes.values() if o.task.load == load and not o.failed]
        for system in SYSTEMS:
            own = [o for o in of_load if o.task.system == system]
            rates = [throughput(o.records, OUTSTANDING) for o in own if o.task.loop == "closed"]
            if own:
                closed = [rate for rate in rates if rate]
                median = statistics.median(closed) if closed else None
                single, rate = _single(campaign, system), highest.get((system, load))
                found.append(Figures(system, load, median, single, _open(campaign, own), rate))
    return found


def _single(campaign: Campaign, system: str) -> float | None:
    """The median of one request alone, over all starts of the system."""
    starts = [
        statistics.median(outcome.singles)
        for outcome in campaign.outcomes.values()
        if outcome.task.system == system and outcome.singles
    ]
    return statistics.median(starts) if starts else None


def _open(campaign: Campaign, own: Sequence[Outcome]) -> dict[float, Latencies]:
    """Latencies by share, the seeds together; of the last rate that was such a share."""
    tasks = [outcome.task for outcome in own if outcome.task.share is not None]
    rates = {task.share: task.rate for task in tasks}
    records: dict[float, list[Record]] = {}
    for outcome in own:
        share = outcome.task.share
        if share is not None and outcome.task.rate == rates[share]:
            records.setdefault(share, []).extend(outcome.records)
    solo = campaign.solo(own[0].task.load) if records else {}
    return {share: Latencies.of(those, solo) for share, those in sorted(records.items())}


def by_request(system: str) -> bool:
    """Whether it is one of the peers that the service is to be ahead of by far."""
    return SYSTEMS[system].batches != "steps"


def highest_rate(
    grid: Sequence[float], shares: Callable[[float], float], known: Mapping[float, float]
) -> float:
    """The highest of ``grid``, ascending, whose share in time is :data:`GOOD_SHARE`; 0 for none.

    ``shares`` runs one; what is ``known`` need not be run. The more there is to do the fewer are in
    time, so half of what is left is ruled out by each run.
    """
    low, high = -1, len(grid)
    while high - low > 1:
        inside = [place for place in range(low + 1, high) if grid[place] in known]
        middle = inside[0] if inside else (low + high) // 2
        share = known[grid[middle]] if inside else shares(grid[middle])
        low, high = (middle, high) if share >= GOOD_SHARE else (low, middle)
    return grid[low] if low >= 0 else 0.0


def table(figures: Sequence[Figures], shares: Sequence[float]) -> Table:
    """A row for each system under each load."""
    names = " / ".join(f"{share:.0%}" for share in shares)
    return [
        {
            "load": one.load,
            "system": SYSTEMS[one.system].name,
            "closed loop, req/s": one.closed,
            "one alone, s": one.single,
            "p50 / p95 / p99 at 100%, s": _quantiles(one.open.get(1.0)),
            f"within {TIMES_SOLO:g}× solo at {names}": _each(
                one, shares, lambda of: f"{of.in_time:.0%}"
            ),
            f"refused + failed at {names}": _each(
                one, shares, lambda of: f"{of.refused}+{of.failed}"
            ),
            f"highest rate with {GOOD_SHARE:.0%} in time, req/s": one.highest_rate,
        }
        for one in figures
    ]


def _quantiles(latencies: Latencies | None) -> str:
    if latencies is None:
        return "–"
    each = latencies.p50, latencies.p95, latencies.p99
    return " / ".join("–" if seconds is None else f"{seconds:.3g}" for seconds in each)


def _each(one: Figures, shares: Sequence[float], words: Callable[[Latencies], str]) -> str:
    return " / ".join(words(one.open[share]) if share in one.open else "–" for share in shares)


def plots(figures: Sequence[Figures]) -> list[Plot]:
    """The median and the share in time, on the mix, by rate."""
    mix = [one for one in figures if one.load == "mix" and one.open]
    medians = {
        SYSTEMS[one.system].name: [(s, of.p50) for s, of in one.open.items() if of.p50]
        for one in mix
    }
    shares = {
        SYSTEMS[one.system].name: [(s, of.in_time) for s, of in one.open.items()] for one in mix
    }
    rate = "rate, of the best peer's capacity"
    in_time_name = f"answered within {TIMES_SOLO:g}× solo"
    return [
        Plot("Median latency on the mix", rate, "seconds", medians),
        Plot("In time on the mix", rate, in_time_name, shares),
    ]


def compared(figures: Sequence[Figures]) -> Table:
    """The service over the best of the peers, figure by figure, with what is aimed at."""
    rows: list[Mapping[str, object]] = []
    service = next(name for name, system in SYSTEMS.items() if system is SERVICE)
    stepper = next(name for name, system in SYSTEMS.items() if system is STEP_BATCHER)
    for load in LOADS:
        of_load = {one.system: one for one in figures if one.load == load}
        if service not in of_load:
            continue
        ours = of_load[service]
        others = [one for one in of_load.values() if by_request(one.system)]
        step = [one for one in of_load.values() if one.system == stepper]
        for name, value, aim, less, of in _aims(load):
            against = step if of == "step" else [*others, *step] if of == "all" else others
            rows += _row(load, name, value, aim, less=less, ours=ours, others=against)
    return rows


Value = Callable[[Figures], float | None]


def _at(share: float, name: str) -> Value:
    def value(one: Figures) -> float | None:
        found: float | None = getattr(one.open[share], name) if share in one.open else None
        return found

    return value


def _aims(load: Load) -> list[tuple[str, Value, float, bool, str]]:
    """What is compared: name, value, the ratio aimed at, whether less is better, and with whom."""
    closed: Value = lambda one: one.closed  # noqa: E731
    highest: Value = lambda one: one.highest_rate  # noqa: E731
    aims: list[tuple[str, Value, float, bool, str]] = []
    if load == "mix":
        aims += [
            ("p50 at 100 %", _at(1.0, "p50"), 0.25, True, "request"),
            ("p99 at 100 %", _at(1.0, "p99"), 0.55, True, "request"),
            ("in time at 100 %", _at(1.0, "in_time"), 5.0, False, "request"),
            ("highest rate", highest, 1.5, False, "request"),
            ("one alone", lambda one: one.single, 1.02, True, "all"),
        ]
    else:
        aims.append(("closed loop", closed, 1.1, False, "request"))
    for share in (0.5, 0.8, 1.0, 1.5):
        for name in ("p50", "p99"):
            aims.append((f"{name} at {share:.0%}", _at(share, name), 1.0, True, "step"))
        aims.append((f"in time at {share:.0%}", _at(share, "in_time"), 1.0, False, "step"))
    return [*aims, ("closed loop", closed, 1.0, False, "step"),
            ("highest rate", highest, 1.0, False, "step")]  # fmt: skip


def _row(
    load: Load, name: str, value: Value, aim: float, *,
    less: bool, ours: Figures, others: Sequence[Figures],
) -> Table:  # fmt: skip
    """One comparison with the best of ``others``, or none where there is nothing to compare."""
    mine = value(ours)
    theirs = {one.system: found for one in others if (found := value(one)) is not None}
    if mine is None or not theirs:
        return []
    best = (min if less else max)(theirs, key=lambda system: theirs[system])
    ratio = mine / theirs[best] if theirs[best] else None
    met = mine >= theirs[best] if ratio is None else ratio <= aim if less else ratio >= aim
    return [
        {
            "load": load,
            "figure": name,
            "this service": mine,
            "best": theirs[best],
            "of": SYSTEMS[best].name,
            "ratio": ratio,
            "aim": f"{'≤' if less else '≥'} {aim:g}",
            "met": "yes" if met else "no",
        }
    ]


def as_json(figures: Sequence[Figures]) -> list[dict[str, object]]:
    """The figures as plain data."""
    return [asdict(one) for one in figures]
