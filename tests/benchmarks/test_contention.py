"""The benchmark of contention measures real workers, and its table says which lost."""

import asyncio
import os
from pathlib import Path

import pytest

from benchmarks import contention
from benchmarks.contention import CHOSEN, Place


def test_the_table_compares_the_worker_that_chooses_with_fixed_threads() -> None:
    by_rows = {CHOSEN: {2: 0.03, 8: 0.06}, "1 thread": {2: 0.02, 8: 0.06}, "2 threads": {2: 0.04}}
    two, eight = contention.table([Place("4 neighbours", 4, None, by_rows)])
    assert two["over one thread"] == pytest.approx(1.5)
    assert two["over the best fixed"] == pytest.approx(1.5)
    assert eight["over one thread"] == pytest.approx(1.0)
    assert eight["2 threads, ms"] is None


@pytest.mark.parametrize("before", [None, "3"])
def test_a_fixed_number_of_threads_is_only_for_what_is_started_in_there(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    with contention.fixed_threads(2):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    with contention.fixed_threads(None):
        assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.slow
def test_workers_take_turns_beside_neighbours(tiny_checkpoint: Path) -> None:
    measured = contention.measure(str(tiny_checkpoint), [0, 1], cores=2, rounds=1, number=3)
    alone, beside = asyncio.run(measured)
    assert set(alone.medians) == {CHOSEN, "1 thread", "2 threads"}
    assert set(beside.medians) == {*alone.medians, contention.CHOSEN_BESIDE}
    every = [by_rows for place in (alone, beside) for by_rows in place.medians.values()]
    assert all(set(by_rows) == {2, 8} for by_rows in every)
    assert all(seconds > 0 for by_rows in every for seconds in by_rows.values())
