"""All runs of the comparison, one after the other, each kept as soon as it is done.

A run is one start of one system: it is warmed up, asked a few times alone, put under one load, and
ended. Systems take turns within a seed and a rate, so that a slow hour of the machine meets them
all. A folder holds the runs; what is there and was not disturbed is not run again.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers import figures, workload
from benchmarks.peers.load import Plan, Record
from benchmarks.peers.systems import DEMO, FASTAPI_LOCK, ROOT, SERVICE, SYSTEMS, started
from benchmarks.peers.workload import Load
from benchmarks.report import Run, recording

PICTURE = ROOT / "docs" / "pictures" / "coffee.jpg"
OUTSTANDING = 32
SINGLES = 7
WARM_UP = [workload.Item(1, 10, g, s) for g in (1.0, 3.0) for s in workload.SCHEDULERS] * 4

Loop = Literal["solo", "closed", "open"]


@dataclass(frozen=True, slots=True)
class Task:
    """A run that is to be done. ``share`` is that of the best peer's capacity, in an open loop."""

    system: str
    load: Load
    loop: Loop
    seed: int = 0
    share: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task. ``singles`` are the seconds of :data:`workload.UNIFORM` alone."""

    task: Task
    records: list[Record]
    singles: list[float]
    origin: dict[str, Any]
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What all runs have in common; runs of other options are in another folder.

    ``seconds`` is how long a load lasts, ``repeats`` how often each kind of request is made alone.
    ``threads`` are those of torch, by system; a peer that is not named there has one a core, and
    the service chooses by itself.
    """

    seconds: float
    threads: Mapping[str, int] = field(default_factory=dict)
    repeats: int = 3
    model: Path = DEMO
    picture: Path = PICTURE

    def environment(self, system: str) -> dict[str, str]:
        """The variables that a system is started with."""
        count = self.threads_of(system)
        threads = {} if count is None else {"OMP_NUM_THREADS": str(count)}
        if SYSTEMS[system] is SERVICE:
            model = {} if self.model == DEMO else {"VARIATIONS_MODEL": str(self.model)}
            return {"VARIATIONS_DEVICE": "cpu", **model, **threads}
        return {"PEER_MODEL": str(self.model), **threads}

    def threads_of(self, system: str) -> int | None:
        """Of torch, for a system; ``None`` where it chooses by itself."""
        cores = None if SYSTEMS[system] is SERVICE else len(os.sched_getaffinity(0))
        return self.threads.get(system, cores)


@dataclass(slots=True)
class Campaign:
    """The runs of a folder, and those that are still missing."""

    folder: Path
    options: Options
    accept_disturbed: bool = False
    outcomes: dict[Task, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is there; :class:`ValueError` where it was run with other options."""
        self.folder.mkdir(parents=True, exist_ok=True)
        said = json.dumps({key: str(value) for key, value in asdict(self.options).items()})
        about = self.folder / "options.json"
        if about.exists() and about.read_text() != said:
            raise ValueError(f"{self.folder} holds runs of other options: {about.read_text()}")
        about.write_text(said)
        for line in self._file.read_text().splitlines() if self._file.exists() else []:
            self._take(_outcome(json.loads(line)))

    @property
    def _file(self) -> Path:
        return self.folder / "runs.jsonl"

    def done(self, task: Task) -> Outcome:
        """The outcome of a task, which is run now where it has not been."""
        if task not in self.outcomes:
            print(f"{task.system}: {task.load}, {task.loop}, seed {task.seed}", flush=True)
            outcome = perform(task, self.options)
            with self._file.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            self._take(outcome, fresh=True)
            _tell(outcome)
        return self.outcomes[task]

    def _take(self, outcome: Outcome, *, fresh: bool = False) -> None:
        sound = outcome.failed is None and not _run(outcome).disturbed
        if sound or fresh or (self.accept_disturbed and outcome.failed is None):
            self.outcomes[outcome.task] = outcome

    def solo(self, load: Load) -> figures.Solo:
        """What each kind of request takes alone."""
        lock = next(name for name, system in SYSTEMS.items() if system is FASTAPI_LOCK)
        return figures.solo_of(self.done(Task(lock, load, "solo")).records)

    def capacity(self, system: str, load: Load, seeds: Sequence[int]) -> float:
        """The median of its closed loops, in requests a second; 0 where it answered too little."""
        runs = [self.done(Task(system, load, "closed", seed)).records for seed in seeds]
        return statistics.median(figures.throughput(run, OUTSTANDING) or 0.0 for run in runs)

    def open_loop(
        self, system: str, load: Load, share: float, capacity: float, seeds: Sequence[int]
    ) -> list[Record]:
        """The records of all seeds at this share of ``capacity``."""
        tasks = [Task(system, load, "open", seed, share, share * capacity) for seed in seeds]
        return [record for task in tasks for record in self.done(task).records]

    def origin(self) -> Run:
        """The origin of all runs together: their seconds, and what others used meanwhile."""
        runs = [_run(outcome) for outcome in self.outcomes.values()]
        seconds = sum(run.seconds for run in runs)
        last = max(runs, key=lambda run: run.date)
        return Run(
            command=last.command,
            date=last.date,
            machine=last.machine,
            versions=last.versions,
            seconds=seconds,
            ours=sum(run.ours for run in runs),
            others=sum(run.others * run.seconds for run in runs) / seconds,
        )


def perform(task: Task, options: Options) -> Outcome:
    """Start the system, put it under the load, end it."""
    system = SYSTEMS[task.system]
    records: list[Record] = []
    singles: list[Record] = []
    failed = None
    with recording() as run:
        try:
            with started(system, options.environment(task.system)) as url:
                plan = partial(Plan, url, system.dialect, str(options.picture))
                generate(plan(WARM_UP, outstanding=8))
                singles = generate(plan([workload.UNIFORM] * SINGLES))
                records = generate(_planned(plan, task, options))
        except RuntimeError as error:
            failed = str(error)
    seconds = [record.seconds for record in singles if record.good]
    return Outcome(task, records, seconds, asdict(run), failed)


def _planned(plan: Callable[..., Plan], task: Task, options: Options) -> Plan:
    """What is posted in a task."""
    items = workload.requests(task.load, task.seed)
    match task.loop:
        case "solo":
            return plan(list(workload.kinds(task.load).values()) * options.repeats)
        case "closed":
            enough = list(islice(items, int(20 * options.seconds)))
            return plan(enough, outstanding=OUTSTANDING, seconds=options.seconds)
        case "open":
            assert task.rate is not None
            arrivals = workload.arrivals(task.rate, options.seconds, task.seed)
            return plan(list(islice(items, len(arrivals))), arrivals)


def generate(plan: Plan) -> list[Record]:
    """Let a process of its own post a plan; :class:`RuntimeError` where that process fails."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.load"],
        input=plan.to_json(), capture_output=True, text=True, cwd=ROOT, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"the load generator failed: {run.stderr[-2000:]}")
    return [Record(**json.loads(line)) for line in run.stdout.splitlines()]


def _outcome(content: dict[str, Any]) -> Outcome:
    records = [Record(**record) for record in content["records"]]
    return Outcome(**content | {"task": Task(**content["task"]), "records": records})


def _run(outcome: Outcome) -> Run:
    return Run(**outcome.origin)


def _tell(outcome: Outcome) -> None:
    """One line about a run that is over."""
    run, good = _run(outcome), sum(record.good for record in outcome.records)
    words = outcome.failed or f"{good} of {len(outcome.records)} answered"
    print(f"  {words}; {run.seconds:.0f} s; others used {run.others:.1%}", flush=True)


def rounds(systems: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Every system with every seed, the systems taking turns."""
    for seed in seeds:
        for system in systems:
            yield system, seed
