"""What every benchmark hands in: figures as JSON, a Markdown table and plots, with their origin.

>>> with recording() as run:
...     figures = measure()
>>> write("cpu", run, figures, table=[{"rows": 2, "seconds a step": 1.9}], plots=[Plot(…)])

writes ``benchmarks/results/cpu.json``, ``cpu.md`` and ``cpu.svg``. While a run is recorded, the
processor time that other processes use is counted. A run that was disturbed by them says so, and
goes to ``cpu.disturbed.json``, … instead, which git ignores, unless it is to be published anyway.
``python -m benchmarks.report benchmarks/results/cpu.json`` makes the other two files from the first
again, where the measuring machine has no Matplotlib, say.
"""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

RESULTS = Path(__file__).with_name("results")

MOST_OTHERS = 0.05
"""Share of the processors' time that others may use before a run counts as disturbed."""

PACKAGES = ("torch", "diffusers", "numpy")

PublishAnyway = Annotated[
    bool, typer.Option(help="Write the results even where others disturbed the run.")
]

Table = Sequence[Mapping[str, object]]
"""Rows, all with the same keys, which are the head of the table."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One panel of the picture: a line for each entry of ``lines``, or bars where ``x`` is text.

    ``lines`` maps names to points ``(x, y)``; ``log`` makes both axes of lines logarithmic.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float | str, float]]]
    log: bool = False


@dataclass(slots=True)
class Run:
    """The origin of some figures; ``seconds``, ``ours`` and ``others`` grow until its end.

    ``ours`` is the processor seconds of this process and those it started. ``others`` is the share
    of these processors' time that all others used, other virtual machines on them included.
    """

    command: str
    date: str
    machine: dict[str, object]
    versions: dict[str, str]
    seconds: float = 0.0
    ours: float = 0.0
    others: float = 0.0

    @property
    def disturbed(self) -> bool:
        """True where others used more than :data:`MOST_OTHERS`."""
        return self.others > MOST_OTHERS

    @property
    def words(self) -> str:
        """The origin in a few lines of Markdown."""
        machine = ", ".join(f"{value}" for value in self.machine.values())
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        disturbed = " **The run was disturbed.**" if self.disturbed else ""
        return (
            f"`{self.command}`, {self.date}, {self.seconds:.0f} s. {machine}; {versions}. "
            f"Other processes used {self.others:.1%} of the processors.{disturbed}"
        )


@contextmanager
def recording(packages: Sequence[str] = PACKAGES, gpu: str | None = None) -> Iterator[Run]:
    """Note where and when, and how much others use of the processors meanwhile.

    ``packages`` are those whose versions matter; ``gpu`` is the name of one that is measured.
    """
    run = Run(
        command=" ".join(["python", *sys.orig_argv[1:]]),
        date=datetime.now(UTC).date().isoformat(),
        machine=_machine() | ({"gpu": gpu} if gpu else {}),
        versions={"python": platform.python_version(), **_versions(packages)},
    )
    over = threading.Event()
    processors = _Processors()

    def look() -> None:
        # Often, since a process that has ended can no longer be asked.
        while not over.wait(0.25):
            run.seconds, run.ours, run.others = processors.look()

    thread = threading.Thread(target=look, name="processors", daemon=True)
    thread.start()
    try:
        yield run
    finally:
        over.set()
        thread.join()
        run.seconds, run.ours, run.others = processors.look()


def write(
    name: str,
    run: Run,
    figures: object,
    table: Table,
    plots: Sequence[Plot] = (),
    *,
    publish_anyway: bool = False,
    folder: Path = RESULTS,
) -> Path:
    """Write the three files, print the table, and return the path of the JSON.

    ``figures`` is whatever JSON can hold; ``table`` and ``plots`` are kept beside them. May be
    called again and again while a run goes on: each time the files are replaced.
    """
    disturbed = run.disturbed and not publish_anyway
    path = folder / f"{name}{'.disturbed' if disturbed else ''}.json"
    content = asdict(run) | {"disturbed": run.disturbed, "figures": figures}
    content |= {"table": list(table), "plots": [asdict(plot) for plot in plots]}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2) + "\n")
    new.replace(path)
    print(render(path))
    if disturbed:
        print(f"Not published, as the run was disturbed (--publish-anyway does it): {path}")
    return path


def render(path: Path) -> str:
    """Write the Markdown and the picture that a JSON file of :func:`write` asks for; the former."""
    content = json.loads(path.read_text())
    run = Run(**{key: content[key] for key in Run.__dataclass_fields__})
    plots = [Plot(**each) for each in content["plots"]]
    drawn = bool(plots) and _draw(plots, path.with_suffix(".svg"))
    picture = f"\n![{path.stem}]({path.stem}.svg)\n" if drawn else ""
    text = f"{markdown(content['table'])}{picture}\n{run.words}\n"
    path.with_suffix(".md").write_text(text)
    return text


def markdown(table: Table) -> str:
    """A table of Markdown; of fractions three significant digits."""
    if not table:
        return ""
    head = list(table[0])
    lines = [head, ["---"] * len(head), *([_cell(row[key]) for key in head] for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    match value:
        case None:
            return "–"
        case float():
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case _:
            return str(value)


def _draw(plots: Sequence[Plot], path: Path) -> bool:
    """Draw the panels beside each other as SVG; false, said aloud, where Matplotlib is missing."""
    try:
        from matplotlib import rcParams  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        print(
            f"No {path.name}: Matplotlib is not installed; `python -m benchmarks.report` draws it"
        )
        return False
    rcParams["svg.hashsalt"] = path.stem  # the same figures make the same file
    figure = Figure(figsize=(5 * len(plots), 3.6), layout="constrained")
    for axes, plot in zip(figure.subplots(1, len(plots), squeeze=False)[0], plots, strict=True):
        _panel(axes, plot)
    figure.savefig(path, metadata={"Date": None})
    return True


def _panel(axes: Any, plot: Plot) -> None:
    points = [x for line in plot.lines.values() for x, _ in line]
    bars = any(isinstance(x, str) for x in points)
    names = list(dict.fromkeys(points))
    for number, (label, line) in enumerate(plot.lines.items()):
        values = [y for _, y in line]
        if bars:
            width = 0.8 / len(plot.lines)
            places = [names.index(x) + (number + 0.5) * width - 0.4 for x, _ in line]
            axes.bar(places, values, width, label=label)
        else:
            axes.plot([x for x, _ in line], values, marker="o", label=label)
    if bars:
        axes.set_xticks(range(len(names)), names)
    elif plot.log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted(set(names)), [f"{x:g}" for x in sorted(set(names))])
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
    axes.grid(alpha=0.3)
    if len(plot.lines) > 1:
        axes.legend(fontsize="small")


class _Processors:
    """Who has used the processors that this process may run on, since this was made."""

    def __init__(self) -> None:
        self._last: dict[psutil.Process, float] = {}
        self._look_at_ours()
        self._first = dict(self._last)
        self._busy, self._began = _busy_seconds(), time.perf_counter()

    def look(self) -> tuple[float, float, float]:
        """Seconds that have passed, processor seconds of ours, and the share of all others."""
        self._look_at_ours()
        seconds, busy = time.perf_counter() - self._began, _busy_seconds() - self._busy
        ours = sum(last - self._first.get(process, 0.0) for process, last in self._last.items())
        return seconds, ours, max(0.0, (busy - ours) / (seconds * len(_processors())))

    def _look_at_ours(self) -> None:
        """Note the processor seconds of this process and of those that it started."""
        own = psutil.Process()
        # Those seen before are ours also when the one that started them has ended.
        for process in {own, *own.children(recursive=True), *self._last}:
            with suppress(psutil.Error):
                if process.is_running():  # and not another of the same number
                    times = process.cpu_times()
                    self._last[process] = times.user + times.system


def _processors() -> Sequence[int]:
    """Numbers of the processors that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _busy_seconds() -> float:
    """Seconds that anybody has used the processors; also those another virtual machine has."""
    kinds = "user", "nice", "system", "irq", "softirq", "steal"
    every = psutil.cpu_times(percpu=True)
    return sum(getattr(every[n], kind, 0.0) for n in _processors() for kind in kinds)


def _machine() -> dict[str, object]:
    cores = len(_processors())
    memory = psutil.virtual_memory().total / 2**30
    return {"processor": f"{cores} cores of {_processor()}", "memory": f"{memory:.0f} GiB"}


def _processor() -> str:
    """The processor's name as Linux gives it; elsewhere its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
        run = subprocess.run(git, capture_output=True, text=True, check=True)
        found["commit"] = run.stdout.strip()
    return found


def main(path: Annotated[Path, typer.Argument(help="A JSON file of benchmarks/results.")]) -> None:
    """Make the table and the picture of a result again."""
    print(render(path))


if __name__ == "__main__":
    typer.run(main)
