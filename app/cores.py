"""The processor cores that this process may really use."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Whole cores by affinity and by the CPU quota of the control group, at least 1.

    A container's limit is such a quota: more threads than that only wait for each other.
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for quota in _quotas(cgroups, own) if quota > 0]
    return max(1, min(cores, *(math.ceil(quota) for quota in quotas)) if quotas else cores)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores that each control group above this process allows, by cgroup v2 and v1."""
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(name.strip() or "/")
        for each in (group, *group.parents):
            relative = each.relative_to("/") if each.is_absolute() else each
            if controllers:
                folder = cgroups / "cpu" / relative
                quota, period = (
                    _read(folder / f"cpu.cfs_{kind}_us") for kind in ("quota", "period")
                )
            else:
                quota, _, period = _read(cgroups / relative / "cpu.max").partition(" ")
            if quota.strip().isdigit() and period.strip().isdigit():
                yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another kind of control groups, or none to be seen from in here
        return ""
