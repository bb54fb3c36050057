"""Logs of both processes: lines for people, or JSON for machines.

Lines are written by a thread of their own. Whoever reads them may be slow or gone, a pipe or a disk
full: then lines are dropped and counted, and nothing else waits.
"""

import atexit
import logging
import os
import select
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from queue import Full, Queue
from typing import Final, Literal

from pythonjsonlogger.json import JsonFormatter

MOST_LINES: Final = 4096
"""Lines that wait to be written, to each of the two standard files."""

FLUSH_SECONDS: Final = 1.0
"""For what is still to be written when the process ends."""

_STDOUT, _STDERR = 1, 2


class LineWriter:
    """Writes lines to a file descriptor, in a thread of its own."""

    def __init__(self, descriptor: int, most: int = MOST_LINES) -> None:
        self.dropped = 0
        """Lines that could not be written, or found no room to wait."""
        self.tell: Callable[[int], str] | None = None
        """Makes a line that says how many were dropped, for when there is room again."""
        self._told = 0
        self._descriptor = descriptor
        self._waiting: Queue[Callable[[], None]] = Queue(most)
        threading.Thread(target=self._run, daemon=True, name=f"lines to {descriptor}").start()

    def write(self, line: str) -> bool:
        """Have a line written soon; returns at once, False if it is dropped."""
        data = f"{line}\n".encode(errors="backslashreplace")
        try:
            self._waiting.put_nowait(lambda: self._write(data))
        except Full:
            self.dropped += 1
            return False
        return True

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all lines before have been written, but no longer than this."""
        written = threading.Event()
        with suppress(Full):
            self._waiting.put(written.set, timeout=seconds)
            written.wait(seconds)

    def _run(self) -> None:
        while True:
            self._waiting.get()()

    def _write(self, data: bytes) -> None:
        try:
            self._write_all(data)
            if self.tell and self.dropped > self._told:
                dropped = self.dropped
                self._write_all(f"{self.tell(dropped - self._told)}\n".encode())
                self._told = dropped
        except (OSError, ValueError):
            self.dropped += 1

    def _write_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the file has set it so
                select.select([], [self._descriptor], [])


class Handler(logging.Handler):
    """Formats records and hands them to a writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        writer.tell = self._tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait for what has been logged to be written, as at the end of the process."""
        self._writer.flush()

    def _tell(self, dropped: int) -> str:
        words = {"msg": "%d log lines could not be written", "args": (dropped,)}
        level = {"levelno": logging.WARNING, "levelname": "WARNING"}
        return self.format(logging.makeLogRecord({"name": __name__, **level, **words}))


def configure(level: str, log_format: str, process: Literal["api", "worker"]) -> None:
    """Log to standard error: our own loggers at ``level``, all others from warnings on.

    ``log_format`` is ``text``, ``json``, or ``auto``: text on a terminal and JSON elsewhere. In
    JSON a line has ``time``, ``level``, ``process``, ``logger``, ``message`` and what else is known
    where it is written, such as ``request_id``. Faults of an upload or of a header concern their
    sender, who is told, and not the log.
    """
    _open_standard_files()
    if log_format == "auto":
        log_format = "text" if os.isatty(_STDERR) else "json"
    where = "" if process == "api" else f" {process}:"
    formatter = logging.Formatter(f"%(asctime)s %(levelname)s{where} %(message)s")
    if log_format == "json":
        formatter = JsonFormatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"process": process},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    handler = Handler(_writer(_STDERR))
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("app").setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("opentelemetry.trace.propagation").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def say(line: str) -> None:
    """Write a line for people to standard output."""
    _writer(_STDOUT).write(f"variations: {line}")


def flush() -> None:
    """Wait for what has been logged to be written, but not for long."""
    _writer(_STDERR).flush()


def dropped() -> int:
    """Lines that this process could not log."""
    return _writer(_STDERR).dropped


@cache
def _writer(descriptor: int) -> LineWriter:
    writer = LineWriter(descriptor)
    atexit.register(writer.flush)
    return writer


def _open_standard_files() -> None:
    """Point those that are closed to nowhere: a socket would take their number, and get the log."""
    for descriptor in (0, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this
