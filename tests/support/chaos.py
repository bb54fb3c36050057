"""A running service whose worker can be made to stumble."""

import os
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import httpx

from tests.support.load import until
from tests.support.processes import ServiceProcess
from tests.support.scrape import value

Stage = Literal["encode", "start", "step", "decode"]

FAULTS = Path(__file__).parent.parent / "chaos" / "faults"


@dataclass(frozen=True, slots=True)
class Victim:
    """A running service and the folder through which its worker is told to stumble."""

    service: ServiceProcess
    folder: Path
    scraper: httpx.Client

    @property
    def url(self) -> str:
        """The address of the service."""
        return self.service.url

    async def stumble(self, stage: Stage, kind: str) -> None:
        """Make the worker's next call of ``stage`` raise; what was asked before comes first."""
        await until(lambda: not (self.folder / stage).exists())
        half = self.folder / "half"
        half.write_text(kind)
        half.rename(self.folder / stage)

    @property
    def struck(self) -> int:
        """The number of errors that were raised."""
        file = self.folder / "struck"
        return file.stat().st_size if file.exists() else 0

    def count(self, name: str, **labels: str) -> float:
        """One number from /metrics."""
        return value(self.scraper, f"variations_{name}", labels)

    def exits(self) -> dict[str, int]:
        """Workers that ended, by cause."""
        causes = ("signal", "timeout", "exit")
        return {cause: int(self.count("worker_restarts_total", cause=cause)) for cause in causes}

    @property
    def pids(self) -> tuple[int, int]:
        """The API process and its worker."""
        assert self.service.worker_pid is not None
        return self.service.process.pid, self.service.worker_pid

    def resident(self) -> int:
        """Bytes of both processes in memory."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self.pids]
        return sum(1024 * int(one.split("VmRSS:")[1].split()[0]) for one in statuses)

    def descriptors(self) -> int:
        """Open files of both processes."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids)

    def futures_and_samples(self) -> tuple[int, int]:
        """The numbers of each that both processes hold."""
        futures = samples = 0
        for pid in self.pids:
            file = self.folder / f"census-{pid}"
            os.kill(pid, signal.SIGUSR2)
            while not file.exists():  # the process's main thread gets to it between two calls
                time.sleep(0.01)
            counted = file.read_text().split()
            file.unlink()
            futures, samples = futures + int(counted[0]), samples + int(counted[1])
        return futures, samples


class Serve(Protocol):
    """Starts a service over the tiny checkpoint; its log goes to this descriptor, if any."""

    def __call__(
        self, log: int | None = None, **settings: str
    ) -> AbstractContextManager[Victim]: ...
