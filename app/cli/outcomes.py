"""What becomes of an input, and how it is told: files, lines, bars."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from app.cli.inputs import Input, write_whole
from app.cli.sheet import Sheet


@dataclass(frozen=True, slots=True)
class Made:
    """One variation: ``data`` is its file. Without one it is flagged, or ``error`` says why.

    ``details`` is what else is to be told of it.
    """

    index: int
    seed: int
    data: bytes | None
    flagged: bool = False
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Outcomes:
    """Takes what becomes of each input: writes its files, says so, moves the bars.

    ``failures`` counts the inputs of which no picture was made. Bars and complaints go to the
    standard error, and to the standard output a line for each file: its path, or as JSON.
    """

    def __init__(
        self, total: int, out: Path, *, as_json: bool = False, sheet: Sheet | None = None
    ) -> None:
        self.failures = 0
        self._out = out
        self._as_json = as_json
        self._sheet = sheet
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,  # which may be a file
            redirect_stderr=False,
        )
        self._total = self._bars.add_task("all", total=total, words="")
        self._tasks: dict[Input, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def loading(self, stage: str, fraction: float | None) -> None:
        """Tell what is being loaded, and how far (0–1) where that is known."""
        percent = "" if fraction is None else f" {fraction:.0%}"
        self._bars.update(self._total, words=f"{stage}{percent}")

    def begun(self, each: Input) -> None:
        """Give an input a bar."""
        self._tasks[each] = self._bars.add_task(each.path.name, total=None, words="")

    def stepped(self, each: Input, done: int, of: int) -> None:
        """Tell how many of its steps are done."""
        self._bars.update(self._tasks[each], completed=done, total=of, words="")

    def waits(self, each: Input, words: str) -> None:
        """Tell what an input waits for."""
        self._bars.update(self._tasks[each], words=words)

    def made(
        self,
        each: Input,
        pictures: list[Made],
        model: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> None:
        """Take all variations of an input."""
        suffix = parameters["output_format"]
        for one in pictures:
            path = self._out_of(each, one, suffix)
            told = {
                "input": str(each.path),
                "file": path and str(path),
                "index": one.index,
                "seed": one.seed,
                "flagged": one.flagged,
                **one.details,
                "model": model,
                "parameters": parameters,
            }
            if self._as_json:
                self._say(json.dumps(told, ensure_ascii=False))
            elif path:
                self._say(str(path))
        if self._sheet:
            self._sheet.add(each.position, each.path, [(one.seed, one.data) for one in pictures])
        self._over(each, failed=all(one.data is None for one in pictures))

    def failed(self, each: Input, words: str) -> None:
        """Take why there is nothing of an input."""
        self._complain(f"{each.path}: {words}")
        if self._sheet:
            self._sheet.add(each.position, each.path, [])
        self._over(each, failed=True)

    def _out_of(self, each: Input, one: Made, suffix: str) -> Path | None:
        if one.data is None:
            reason = one.error or "stopped by the safety checker"
            self._complain(f"{each.path}: seed {one.seed}: {reason}")
            return None
        path = each.output(self._out, one.seed, suffix)
        write_whole(path, one.data)
        return path

    def _over(self, each: Input, *, failed: bool) -> None:
        self.failures += failed
        self._bars.update(self._total, advance=1)
        if each in self._tasks:
            self._bars.remove_task(self._tasks.pop(each))

    def _say(self, line: str) -> None:
        """A line on the standard output, above the bars where both are one terminal."""
        if self._bars.disable or not sys.stdout.isatty():
            typer.echo(line)
        else:
            self._above(line)

    def _complain(self, line: str) -> None:
        if self._bars.disable:
            typer.echo(line, err=True)
        else:
            self._above(line)

    def _above(self, line: str) -> None:
        self._bars.console.print(line, soft_wrap=True, markup=False, highlight=False)
