"""Corrects the row cap and the threads by what steps take, against what they were to take."""

from dataclasses import dataclass
from typing import Self

from app.ipc.messages import Ready, Start
from app.scheduling.batcher import Batch
from app.scheduling.costs import Costs
from app.scheduling.row_cap import CapReason, RowCap
from app.worker.threads import Threads, candidates


@dataclass(frozen=True, slots=True)
class Tuning:
    """The row cap, and on a CPU the threads; ``expected`` are the costs that were measured."""

    row_cap: RowCap
    threads: Threads | None
    expected: Costs

    @classmethod
    def of(cls, start: Start, ready: Ready) -> Self:
        """What may change in a worker with this start.

        The row cap does not where it is set, and nothing does where bytes are promised.
        """
        measured = ready.measured
        is_set = measured.cap_reason in (CapReason.SET, CapReason.FIXED_BUCKET)
        costs = Costs()
        costs.measured(ready.model.sizes[0], measured.step_seconds, encode=0.0, decode=0.0)
        cap = RowCap(measured.row_cap, None if is_set else measured.step_seconds)
        threads = None
        if ready.model.device == "cpu":
            counts = [measured.threads] if start.fixed_bucket else candidates()
            threads = Threads(counts, measured.threads)
        return cls(cap, threads, costs)

    @classmethod
    def none(cls, cap: int) -> Self:
        """Nothing but a row cap, which falls where memory is short."""
        return cls(RowCap(cap), None, Costs())

    def stepped(self, batch: Batch, seconds: float) -> None:
        """This step took so many seconds."""
        expected = self.expected.step(batch.size, batch.bucket)
        slowness = seconds / expected if expected else 1.0
        self.row_cap.stepped(batch.bucket, slowness)
        if self.threads:
            self.threads.stepped(slowness)
