"""Services in processes of their own, as people run them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

SERVE: Final = ("-m", "app", "serve")

END_SECONDS = 60


@dataclass(slots=True)
class ServiceProcess:
    """A running service; the lines that it printed so far are in ``lines``."""

    process: subprocess.Popen[str]
    log_file: IO[str]
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address in ``variations: listening on URL (…)``."""
        return self.lines[0].split()[3]

    def wait_for(self, word: str) -> None:
        """Read what it prints, up to the line that holds this word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if word in line:
                return
            if "the worker exited" in line:
                self.process.terminate()
        raise AssertionError(f"it ended without saying {word!r}: {self.lines} {self.log()}")

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker, the child that runs ``app.worker``, while there is one."""
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                with suppress(OSError):  # it has just ended
                    if b"app.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
        return None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(END_SECONDS)

    def log(self) -> str:
        self.log_file.seek(0)
        return self.log_file.read()

    def assert_clean_end(self) -> None:
        """It ends by itself, with status 0 and without a traceback."""
        status = self.wait()
        assert status == 0, self.log()
        assert "Traceback" not in self.log()


@contextmanager
def service_process(
    code: str | None = None,
    extra: Mapping[str, str] | None = None,
    log: int | None = None,
    **settings: str,
) -> Iterator[ServiceProcess]:
    """Run the service, or Python code that serves, on a free port unless told otherwise.

    Its log is a file, or goes to the descriptor ``log``. ``extra`` is environment besides the
    settings.
    """
    environment = {f"VARIATIONS_{name.upper()}": text for name, text in settings.items()}
    # A tiny model gains nothing from a second thread and waits for it on a busy machine.
    environment = {"OMP_NUM_THREADS": "1", "VARIATIONS_PORT": "0", **environment}
    environment.setdefault("VARIATIONS_LOG_FORMAT", "text")
    with (
        tempfile.TemporaryFile("w+") as log_file,
        subprocess.Popen(
            [sys.executable, *(SERVE if code is None else ("-c", code))],
            env=os.environ | environment | dict(extra or {}),
            stdout=subprocess.PIPE,
            stderr=log_file if log is None else log,
            text=True,
        ) as process,
    ):
        try:
            yield ServiceProcess(process, log_file)
        finally:
            process.kill()
