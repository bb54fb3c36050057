"""Log lines of both processes, and what happens where nobody takes them."""

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import pytest

from app import logs
from tests.support.scrape import eventually, value

SERVE = """
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
serve(Settings(), FakeEngine(), FakeDecoders())
"""


@contextmanager
def served(
    stdout: IO[bytes] | int, stderr: IO[bytes] | int, redirections: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A service with these standard files and the shell's redirections, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"VARIATIONS_PORT": str(port), "VARIATIONS_LOG_FORMAT": "json"}
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", SERVE]
    with subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr) as process:
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/healthz").status_code == 200
    return False


def refuse(url: str, times: int) -> None:
    """Ask for what there is not: a line in the log for each."""
    with httpx.Client() as client:
        for _ in range(times):
            assert client.get(f"{url}/nothing").status_code == 404


def end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(60)


@pytest.fixture
def full_pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A pipe that takes nothing more, since nobody reads it: its two ends."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as reader,
        os.fdopen(writing, "wb", buffering=0) as writer,
    ):
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        yield reader, writer


def test_a_log_line_in_json_has_the_request_id(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("info", "json", "api")
        logging.getLogger("app.x").info("done in %d", 3, extra={"request_id": "abc"})
        logs.flush()
        line = json.loads(capfd.readouterr().err)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "app.x",
        "message": "done in 3",
        "process": "api",
        "request_id": "abc",
    }


def test_a_service_whose_log_and_words_nobody_reads_answers_and_ends_cleanly(
    full_pipe: tuple[IO[bytes], IO[bytes]],
) -> None:
    _, writer = full_pipe
    with served(writer, writer) as (url, process):
        eventually(lambda: answers(url))
        refuse(url, 300)
        assert answers(url)
        assert end(process) == 0


def test_what_waited_is_logged_once_somebody_reads_again(
    full_pipe: tuple[IO[bytes], IO[bytes]],
) -> None:
    reader, writer = full_pipe
    with served(subprocess.DEVNULL, writer) as (url, process):
        eventually(lambda: answers(url))
        refuse(url, 20)
        capacity = fcntl.fcntl(writer.fileno(), fcntl.F_GETPIPE_SZ)
        seen = b""
        while len(seen) < capacity or seen.count(b"/nothing") < 20:
            seen += reader.read(2**16)
        assert end(process) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_service_with_closed_standard_files_answers(closed: str) -> None:
    with served(subprocess.DEVNULL, subprocess.DEVNULL, closed) as (url, process):
        eventually(lambda: answers(url))
        refuse(url, 3)
        assert end(process) == 0


def test_lines_that_a_full_disk_does_not_take_are_counted() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, served(full, full) as (url, process):
        eventually(lambda: answers(url))
        refuse(url, 3)
        with httpx.Client(base_url=url) as client:
            eventually(lambda: value(client, "variations_log_lines_dropped_total") == 3)
        assert end(process) == 0


def test_lines_that_find_no_room_are_dropped_and_told_of(
    full_pipe: tuple[IO[bytes], IO[bytes]],
) -> None:
    reader, writer = full_pipe
    lines = logs.LineWriter(writer.fileno(), most=2)
    # One is being written, two wait.
    accepted = 0
    while lines.write(f"line {accepted}"):
        accepted += 1
    assert lines.dropped == 1
    seen = b""
    while f"line {accepted - 1}\n".encode() not in seen:
        seen += reader.read(2**16)
    assert [f"line {number}\n".encode() in seen for number in range(accepted)] == [True] * accepted
    logs.Handler(lines).emit(logging.makeLogRecord({"msg": "at last"}))
    # In either order: the thread may look for what was dropped once more before that line.
    told = {b"at last", b"1 log lines could not be written"}
    while not told <= set(seen.splitlines()):
        seen += reader.read(2**16)
