"""Results of benchmarks, and what they say of the run that they are from."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.report import MOST_OTHERS, Plot, Run, Table, markdown, recording, render, write

BURN = "import time; end = time.process_time() + {0}\nwhile time.process_time() < end: pass"


def burn(seconds: float) -> list[str]:
    """A command that uses a processor for so many seconds."""
    return [sys.executable, "-c", BURN.format(seconds)]


def a_run(others: float = 0.0) -> Run:
    return Run(
        "python -m benchmarks.x", "2026-01-02", {"processor": "2 cores"}, {}, 3.0, 3.0, others
    )


def test_a_result_is_json_a_table_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bars = Plot("Seconds", "denoiser", "s", {"2 rows": [("eager", 1.5), ("compiled", 1.0)]})
    lines = Plot("Rate", "rows", "1/s", {"a": [(2, 3.0), (4, 5.0)], "b": [(2, 1.0)]}, log=True)
    table: Table = [{"rows": 2, "seconds": 0.12345}, {"rows": 4, "seconds": None}]
    path = write("x", a_run(), {"raw": [1, 2]}, table, [bars, lines], folder=tmp_path)
    assert path == tmp_path / "x.json"
    content = json.loads(path.read_text())
    assert content["figures"] == {"raw": [1, 2]}
    assert content["table"] == table
    text = (tmp_path / "x.md").read_text()
    assert "| rows | seconds |\n| --- | --- |\n| 2 | 0.123 |\n| 4 | – |\n" in text
    assert "python -m benchmarks.x" in text
    assert "disturbed" not in text
    picture = (tmp_path / "x.svg").read_bytes()
    assert b"<svg" in picture
    (tmp_path / "x.svg").unlink()
    assert render(path) == text
    assert (tmp_path / "x.svg").read_bytes() == picture


def test_a_disturbed_run_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(others=2 * MOST_OTHERS)
    path = write("x", run, {}, [{"rows": 2}], folder=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "x.disturbed.json",
        "x.disturbed.md",
    ]
    assert "Not published" in capsys.readouterr().out
    assert json.loads(path.read_text())["disturbed"]


def test_a_disturbed_run_that_is_published_anyway_says_so(tmp_path: Path) -> None:
    run = a_run(others=2 * MOST_OTHERS)
    path = write("x", run, {}, [{"rows": 2}], publish_anyway=True, folder=tmp_path)
    assert path.name == "x.json"
    assert "The run was disturbed" in path.with_suffix(".md").read_text()


def test_without_rows_there_is_no_table() -> None:
    assert markdown([]) == ""


def test_the_machine_and_the_versions_are_noted() -> None:
    with recording(["numpy", "no-such-package"], gpu="a card") as run:
        pass
    assert {"processor", "memory", "gpu"} == set(run.machine)
    assert {"python", "numpy"} <= set(run.versions)
    assert "no-such-package" not in run.versions


def test_what_is_started_here_counts_as_ours() -> None:
    with recording([]) as run:
        subprocess.run(burn(1.0), check=True)
    assert run.seconds > 0.9
    assert run.ours > 0.5


def test_what_another_process_uses_counts_as_others() -> None:
    # Its parent ends at once, so that it belongs to nobody here.
    start = (
        "from subprocess import DEVNULL, Popen; "
        f"print(Popen({burn(60.0)!r}, stdout=DEVNULL, stderr=DEVNULL).pid)"
    )
    pid = int(subprocess.run([sys.executable, "-c", start], capture_output=True, check=True).stdout)
    stranger = psutil.Process(pid)
    try:
        with recording([]) as run:
            before = stranger.cpu_times().user
            while stranger.cpu_times().user < before + 0.5:
                time.sleep(0.01)
    finally:
        stranger.kill()
    assert run.ours < run.seconds
    assert run.others > 0.4 / (run.seconds * (os.cpu_count() or 1))
