"""The command that measures a GPU, as far as that goes on a CPU."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu, report

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.mark.slow
def test_a_dry_run_passes_its_stages_and_writes_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, object]] = []

    def noting(*args: object, **options: object) -> Path:
        path = report.write(*args, **options)  # type: ignore[arg-type]
        written.append(json.loads(path.read_text())["figures"])
        return path

    monkeypatch.setattr(gpu, "write", noting)
    gpu.main(
        device="cpu",
        dtype="float32",
        small=True,
        compile_too=False,
        minutes=5.0,
        publish_anyway=True,
        output=tmp_path,
    )
    assert len(written) == 4
    first, *_, last = written
    assert first["graphs_equal"]
    assert "picture" not in first
    assert last["picture"]
    steps = last["steps"]
    assert isinstance(steps, list)
    assert {each["contender"] for each in steps} == {"served", "served, no graphs", "diffusers"}
    assert [each["samples"] for each in steps] == [1, 1, 1, 2, 2, 2]
