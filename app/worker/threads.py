"""The number of torch's threads on a CPU: chosen by measurement, and looked at again.

More threads make a step shorter on a quiet machine, and up to ten times longer where others use the
cores: each waits for the last at every operation. How long they spin while they wait is bounded by
the environment that the worker is started with (``app.engine.process``).
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

import torch

from app.cores import usable_cores

WORTH_MORE_THREADS = 0.9
"""Of the time with fewer threads, at most, that more must take to be chosen."""

UNUSUAL = 1.5
"""Times what steps used to take, or this part of it, after which the number is looked at again."""

USUAL_STEPS = 16
TRIAL_STEPS = 4
"""Steps that are looked at, and those of each number of threads in a trial."""

FIRST_PAUSE, LONGEST_PAUSE = 64, 1024
"""Steps from one trial to the next, which double where it changed nothing. The first comes soon,
since what the start measured on a busy machine would seem usual for ever."""

SOONER = 4
"""Part of the pause after which there is a trial where steps have become unusual."""

HOPELESS = 3.0
"""Times the seconds of the number in use after which a trial of another ends at once."""

logger = logging.getLogger(__name__)


def candidates() -> list[int]:
    """Numbers of threads to choose from, ascending: one, half of the usable cores, all of them.

    ``OMP_NUM_THREADS`` leaves no choice.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return [torch.get_num_threads()]
    cores = usable_cores()
    return sorted({1, max(1, cores // 2), cores})


def choose(counts: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The number of threads: one more step up for each that makes steps at least 10 % shorter.

    ``seconds`` gives those of the same work by the number of threads.
    """
    chosen, best = counts[0], seconds(counts[0])
    for count in counts[1:]:
        if (taken := seconds(count)) <= WORTH_MORE_THREADS * best:
            chosen, best = count, taken
    return chosen


class Threads:
    """The number in use, tried against the others now and then, sooner where steps are unusual.

    ``set_count`` is called with a new number before the step that is to have it.
    """

    def __init__(
        self,
        counts: Sequence[int],
        count: int,
        set_count: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self.count = count
        self._counts = counts
        self._set_count = set_count
        self._usual = 1.0
        self._seen: deque[float] = deque(maxlen=USUAL_STEPS)
        self._trial: dict[int, list[float]] = {}
        self._pause, self._since = FIRST_PAUSE, 0
        set_count(count)

    def stepped(self, slowness: float) -> None:
        """A step took ``slowness`` times what a step of so many rows was measured to take."""
        if self._trial:
            self._tried(slowness)
            return
        self._seen.append(slowness)
        self._since += 1
        if self._since < FIRST_PAUSE or len(self._counts) == 1:
            return
        unusual = not self._usual / UNUSUAL < median(self._seen) < self._usual * UNUSUAL
        if self._since >= self._pause // (SOONER if unusual else 1):
            self._trial = {count: [] for count in self._counts}
            self._next_trial()

    def _next_trial(self) -> None:
        """Have the next step with the number that has been tried least."""
        self._trying = min(self._trial, key=lambda count: len(self._trial[count]))
        self._set_count(self._trying)

    def _tried(self, slowness: float) -> None:
        self._trial[self._trying].append(slowness)
        if self._trying != self.count and slowness > HOPELESS * median(self._seen):
            del self._trial[self._trying]
        if min(map(len, self._trial.values())) < TRIAL_STEPS:
            self._next_trial()
            return
        found = {count: median(each) for count, each in sorted(self._trial.items())}
        chosen = choose(list(found), found.__getitem__)
        self._pause = FIRST_PAUSE if chosen != self.count else min(2 * self._pause, LONGEST_PAUSE)
        if chosen != self.count:
            logger.info(
                "Steps are shorter with other threads: %d threads, not %d", chosen, self.count
            )
        self.count, self._usual, self._since = chosen, found[chosen], 0
        self._trial.clear()
        self._seen.clear()
        self._set_count(chosen)
