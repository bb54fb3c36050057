"""Seconds of steps, measured so that a busy moment of the machine decides nothing.

All that is compared is run in turn, round after round, and medians count. On a CPU it is the
processor's time that is compared, which others' work does not add to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time

import torch

from app.pipeline import Pipeline, Row, Sample
from app.pipeline.devices import ran_out_of_memory
from app.scheduling.row_cap import LONGEST_STEP, ONE_REQUEST, SMALLEST_CAP
from app.worker import threads

ROWS_TRIED = (2, 4, 8, 16, 32, 64, 128)

ROWS_OF_THREADS = (2, 8)
"""Rows by which numbers of threads are compared: one picture with guidance, and four."""

LONG_STEP = 0.5
"""Seconds of a step of one picture, in each of whose operations threads hardly wait."""

ROUNDS = 5
ENOUGH_SECONDS = 1.5
"""Of measuring one thing, after which the next round is not begun."""

NO_GAIN = 1.02
"""Times the most rows a second so far, at least, that twice the rows should give to go on."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step by its rows; ``fits`` is False where the next number had no memory.

    ``disturbance`` is how many times as long steps took as with the processor to themselves.
    """

    seconds: dict[int, float]
    fits: bool
    disturbance: float

    @property
    def undisturbed(self) -> dict[int, float]:
        """Seconds of a step by its rows, with the processor to themselves."""
        return {rows: seconds / self.disturbance for rows, seconds in self.seconds.items()}


class Stopwatch:
    """Times single steps of ``rows``, as those of one guided sample, on a pipeline."""

    def __init__(self, pipeline: Pipeline, rows: Sequence[Row]) -> None:
        self._pipeline = pipeline
        self._rows = rows
        self._on_cpu = pipeline.model.device == "cpu"
        self._samples: dict[int, list[Sample]] = {}

    def step(self, rows: int) -> tuple[float, float]:
        """Seconds of one step, and the work in it: the processor's seconds on a CPU, else equal."""
        samples = self._samples.get(rows)
        if not samples or not samples[0].steps_left:
            samples = self._samples[rows] = self._fresh(max(1, rows // 2))
        began, work_began = perf_counter(), process_time()
        self._pipeline.step(samples, rows).wait()
        seconds, work = perf_counter() - began, process_time() - work_began
        return seconds, work if self._on_cpu else seconds

    def choose_threads(self, counts: Sequence[int]) -> int:
        """The number of threads for this machine, of some, by interleaved steps; sets it.

        All of them where steps are so long that waiting at each operation is nothing to them.
        """
        if not self._on_cpu:
            return torch.get_num_threads()
        torch.set_num_threads(counts[-1])
        if len(counts) == 1 or self.step(SMALLEST_CAP)[0] > LONG_STEP:
            return counts[-1]
        taken: dict[int, dict[int, list[float]]] = {
            count: {rows: [] for rows in ROWS_OF_THREADS} for count in counts
        }
        for _ in _rounds():
            for count, by_rows in taken.items():
                torch.set_num_threads(count)
                for rows, runs in by_rows.items():
                    runs.append(self.step(rows)[0])

        def seconds(count: int) -> float:
            return sum(median(runs[1:] or runs) for runs in taken[count].values())

        chosen = threads.choose(counts, seconds)
        torch.set_num_threads(chosen)
        return chosen

    def step_times(self, tried: Sequence[int] = ROWS_TRIED) -> StepTimes:
        """Seconds of steps of more and more rows, until more do not pay, or do not fit."""
        rows_tried, fits = self._worth_trying(tried)
        both: dict[int, list[tuple[float, float]]] = {rows: [] for rows in rows_tried}
        for _ in _rounds():
            for rows, runs in both.items():
                runs.append(self.step(rows))
        work = {rows: median(work for _, work in runs) for rows, runs in both.items()}
        # What a second of work takes here and now is one number, for all rows.
        ratio = median(median(s for s, _ in runs) / work[rows] for rows, runs in both.items())
        seconds = {rows: ratio * each for rows, each in work.items()}
        return StepTimes(seconds, fits, disturbance=max(1.0, ratio))  # on any threads of its own

    def _worth_trying(self, tried: Sequence[int]) -> tuple[list[int], bool]:
        """Numbers of rows, each of which has been run, until two in a row gain nothing."""
        rates: list[float] = []
        for number, rows in enumerate(tried):
            try:
                self.step(rows)  # which pays for tuning
                seconds, work = self.step(rows)
            except Exception as error:
                if number and ran_out_of_memory(error):
                    self._samples.pop(rows, None)
                    return list(tried[:number]), False
                raise
            rates.append(rows / work)
            without_gain = len(rates) > 2 and max(rates[-2:]) < NO_GAIN * max(rates[:-2])
            # Others' work makes steps longer, but not fewer rows better: see to one request first.
            longest = min(seconds, work) if rows < ONE_REQUEST else seconds
            if without_gain or longest > LONGEST_STEP:
                return list(tried[: number + 1]), True
        return list(tried), True

    def _fresh(self, number: int) -> list[Sample]:
        steps = self._pipeline.fewest_steps(ROUNDS)
        parameters = self._pipeline.model.defaults(num_inference_steps=steps)
        return [self._pipeline.start(self._rows, parameters, index) for index in range(number)]


def _rounds() -> Iterator[int]:
    began = perf_counter()
    for number in range(ROUNDS):
        if number and perf_counter() > began + ENOUGH_SECONDS:
            return
        yield number
