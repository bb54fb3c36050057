"""The cores that a process may use: by affinity, and by the quota of its control groups."""

import os
from pathlib import Path

import pytest

from app.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


def groups(root: Path, own: str, **files: str) -> tuple[Path, Path]:
    """A tree of control groups, and the file that says which is the process's own."""
    for name, content in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "own").write_text(own)
    return root / "groups", root / "own"


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("100001", 2)])
@pytest.mark.parametrize("inside", ["/", "/pod/one"])
def test_a_quota_of_its_group_or_of_one_above_counts(
    tmp_path: Path, quota: str, cores: int, inside: str
) -> None:
    files = {"cpu.max": "max 100000", "pod/cpu.max": f"{quota} 100000"}
    if inside == "/":
        files = {"cpu.max": f"{quota} 100000"}
    given = groups(tmp_path, f"0::{inside}\n", **files)
    assert usable_cores(*given) == min(cores, ALL)


def test_so_does_one_of_the_first_version(tmp_path: Path) -> None:
    given = groups(
        tmp_path,
        "4:memory:/x\n3:cpu,cpuacct:/box\n",
        **{"cpu/box/cpu.cfs_quota_us": "100000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
    )
    assert usable_cores(*given) == 1


@pytest.mark.parametrize("content", ["max 100000\n", "-1\n", "", "word"])
def test_without_a_quota_affinity_counts(tmp_path: Path, content: str) -> None:
    given = groups(tmp_path, "0::/\n3:cpu:/\n", **{"cpu.max": content})
    assert usable_cores(*given) == ALL


def test_where_there_are_no_groups_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "nothing") == ALL


def test_affinity_counts(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cores(tmp_path, tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, mine)
