"""Uploads are decoded in processes that can do nothing else, and end when they must."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import launch
from app.errors import (
    BadInput,
    DecoderDied,
    FormatNotAllowed,
    NotAPicture,
    NotReady,
    TooCostly,
    TooLarge,
)
from app.parameters import EncoderInput, Fit
from app.pictures.decode import decode
from app.pictures.decoder import LENGTHS, TAKEN
from app.pictures.fit import Preprocessing, at_size
from app.pictures.sandbox import Decoders, Limits, Reason
from tests.support.bombs import saved, slow_jpeg
from tests.support.pictures import in_mode, picture_file

pytestmark = pytest.mark.anyio

LOOPS = ["asyncio"]
if find_spec("uvloop"):  # which uvicorn takes where there is one
    LOOPS.append("uvloop")


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


PREPARE = Preprocessing(32, False, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))

LIMITS = Limits.of(max_pixels=50_000_000, max_upload_bytes=2**20, cpu_seconds=60, seconds=100)

SMALL = picture_file("PNG")

MODES = {
    "PNG": ("1", "L", "P", "RGB", "LA", "RGBA", "I;16"),
    "TIFF": ("1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16B"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
}


@dataclass
class Counts:
    """Counts that the pool has made."""

    reasons: list[str] = field(default_factory=list)
    waiting: Callable[[], int] = lambda: -1

    def failed(self, reason: Reason) -> None:
        self.reasons.append(reason)

    def watch(self, waiting: Callable[[], int]) -> None:
        self.waiting = waiting


@asynccontextmanager
async def running(
    limits: Limits = LIMITS, processes: int = 2, counts: Counts | None = None
) -> AsyncIterator[Decoders]:
    decoders = Decoders(limits, processes, counts)
    await decoders.start()
    try:
        yield decoders
    finally:
        await decoders.stop()


def reading(data: bytes) -> Callable[[], Awaitable[bytes]]:
    """An upload that is there."""

    async def read() -> bytes:
        return data

    return read


async def decoded(decoders: Decoders, data: bytes = SMALL, caller: str = "") -> EncoderInput:
    fitted = await decoders.decode(
        reading(data), fit=Fit.CROP, preprocessing=PREPARE, caller=caller
    )
    return fitted.pixels


async def until(condition: Callable[[], object]) -> None:
    """A process tells nobody that it has begun, or ended: its parent is another."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.005)


def has_ended(pid: int) -> bool:
    """Gone, or a zombie: nobody may be left to ask for its exit code."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A picture that takes seconds."""
    return slow_jpeg()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("fit", Fit)
async def test_the_answer_is_the_decoded_and_fitted_picture(fit: Fit, antialias: bool) -> None:
    prepare = replace(PREPARE, antialias=antialias)
    async with running() as decoders:
        read = reading(SMALL)
        given = await decoders.decode(read, fit=fit, preprocessing=prepare, size=(24, 16))
        without = await decoders.decode(read, fit=fit, preprocessing=prepare)
    picture = decode(SMALL, max_pixels=10_000)
    np.testing.assert_array_equal(given.pixels, prepare(picture, fit), strict=True)
    np.testing.assert_array_equal(without.pixels, given.pixels)
    assert given.picture is not None
    np.testing.assert_array_equal(given.picture, at_size(picture, (24, 16), fit), strict=True)
    assert without.picture is None
    assert given.pixels.flags.writeable
    assert given.picture.flags.writeable


async def test_formats_and_modes_of_all_kinds_are_decoded_without_opening_a_file() -> None:
    async with running() as decoders:
        for file_format, modes in MODES.items():
            for mode in modes:
                data = saved(in_mode(mode), file_format)
                expected = PREPARE(decode(data, max_pixels=10_000), Fit.CROP)
                np.testing.assert_array_equal(await decoded(decoders, data), expected)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", NotAPicture),
        (SMALL[:-30], NotAPicture),
        (b"qoif", FormatNotAllowed),
        (saved(Image.new("1", (10_000, 5001)), "PNG"), TooLarge),
    ],
)
async def test_a_refusal_says_the_same_as_without_a_process(
    data: bytes, error: type[BadInput]
) -> None:
    counts = Counts()
    async with running(counts=counts) as decoders:
        with pytest.raises(error) as refusal:
            await decoded(decoders, data)
    with pytest.raises(error) as expected:
        decode(data, max_pixels=LIMITS.max_pixels)
    assert refusal.value.message == expected.value.message
    assert refusal.value.field == "image"
    assert counts.reasons == []


async def test_a_decoder_that_is_killed_fails_its_own_upload_only(slow: bytes) -> None:
    counts = Counts()
    async with running(counts=counts) as decoders:
        victim = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids)
        (pid,) = decoders.pids
        other = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: len(decoders.pids) == 2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderDied, match="ended before") as death:
            await victim
        assert death.value.field == "image"
        assert (await other).shape == (3, 32, 32)
        assert counts.reasons == ["died"]
        again = [asyncio.create_task(decoded(decoders, slow)) for _ in range(2)]
        await until(lambda: len(decoders.pids) == 2)
        for task in again:
            task.cancel()
        await asyncio.gather(*again, return_exceptions=True)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"cpu_seconds": 1}, "cpu", "more than 1 seconds of CPU time"),
        ({"seconds": 0.5}, "time", r"more than 0\.5 seconds"),
    ],
)
async def test_a_picture_that_takes_too_long_is_given_up(
    changes: dict[str, Any], reason: Reason, words: str
) -> None:
    counts = Counts()
    limits = Limits.of(max_pixels=170_000_000, max_upload_bytes=2**20, cpu_seconds=60, seconds=100)
    async with running(replace(limits, **changes), counts=counts) as decoders:
        with pytest.raises(TooCostly, match=words) as refusal:
            await decoded(decoders, slow_jpeg(side=13_000))
        assert refusal.value.field == "image"
        assert counts.reasons == [reason]
        assert decoders.pids == []


async def test_a_picture_that_takes_too_much_memory_is_given_up() -> None:
    counts = Counts()
    large = saved(Image.new("RGB", (7000, 7000)), "PNG", compress_level=1)
    async with running(replace(LIMITS, memory_bytes=256 * 2**20), counts=counts) as decoders:
        with pytest.raises(TooCostly, match="more than 256 MiB of memory"):
            await decoded(decoders, large)
        assert counts.reasons == ["memory"]
        assert (await decoded(decoders)).shape == (3, 32, 32)


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG", "PNG", "TIFF"])
async def test_the_largest_picture_has_memory_enough(file_format: str) -> None:
    options = {"lossless": True, "quality": 0} if file_format == "WEBP" else {}
    large = saved(Image.new("RGB", (8000, 6250)), file_format, **options)
    assert LIMITS.max_pixels == 8000 * 6250
    async with running() as decoders:
        assert (await decoded(decoders, large)).shape == (3, 32, 32)


async def test_cancelling_ends_the_process(slow: bytes) -> None:
    counts = Counts()
    async with running(processes=1, counts=counts) as decoders:
        task = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids)
        (pid,) = decoders.pids
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert has_ended(pid)
        assert (await decoded(decoders)).shape == (3, 32, 32)
        assert counts.reasons == []


async def test_uploads_beyond_the_processes_wait_unread(slow: bytes) -> None:
    counts = Counts()
    async with running(processes=1, counts=counts) as decoders:
        assert counts.waiting() == 0
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(decoded(decoders, slow)) for _ in range(2)
        ]

        async def never_read() -> bytes:
            raise AssertionError("it was read before there was a process for it")

        unread = decoders.decode(never_read, fit=Fit.CROP, preprocessing=PREPARE)
        tasks.append(asyncio.create_task(unread))
        await until(lambda: decoders.pids)
        assert decoders.waiting == counts.waiting() == 2
        tasks[2].cancel()
        await until(tasks[2].done)
        assert decoders.waiting == 1
        tasks[0].cancel()
        await until(lambda: decoders.waiting == 0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_where_no_process_can_be_started_the_caller_may_ask_again(slow: bytes) -> None:
    async with running(processes=1) as decoders:
        task = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids)
        task.cancel()  # which ends the only process
        await asyncio.gather(task, return_exceptions=True)
        with no_more_files(), pytest.raises(NotReady, match="No process"):
            await decoded(decoders)
        assert (await decoded(decoders)).shape == (3, 32, 32)


async def test_a_decoder_that_ends_before_its_job_is_nothing_of_the_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", ""])
    async with running(processes=1) as decoders:
        with pytest.raises(NotReady, match="No decoder process keeps running"):
            await decoded(decoders)


async def test_what_cannot_be_launched_at_the_start_is_launched_when_needed() -> None:
    decoders = Decoders(LIMITS, 2)
    with no_more_files():
        await decoders.start()
    try:
        assert (await decoded(decoders)).shape == (3, 32, 32)
    finally:
        await decoders.stop()
    assert not children()


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may not open another file, and so no pipe to another process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_after_the_stop_nothing_is_started_for_those_who_wait(slow: bytes) -> None:
    async with running(processes=1) as decoders:
        tasks = [asyncio.create_task(decoded(decoders, slow)) for _ in range(2)]
        await until(lambda: decoders.pids)
        await decoders.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DecoderDied, NotReady]
        assert decoders.pids == []
        assert not children()


NONSENSE = """
import struct, sys
source, sink = sys.stdin.buffer, sys.stdout.buffer
while lengths := source.read(8):
    head, upload = struct.unpack(">II", lengths)
    source.read(head)
    sink.write(b"+")
    sink.flush()
    source.read(upload)
    forged = b"F" + struct.pack("<f", 666.0) * (3 * 32 * 32)
    sink.write({answer} + struct.pack(">I", len(forged)) + forged)
    sink.flush()
"""


@pytest.mark.parametrize(
    "answer",
    [
        'struct.pack(">I", 10**9)',
        'struct.pack(">I", 3) + b"F12"',
        'struct.pack(">I", 1) + b"?"',
        'struct.pack(">I", 5) + b"R[[[["',
        'struct.pack(">I", 31) + b\'R["NotASecret", "words", "image"]\'',
    ],
)
async def test_a_decoder_that_answers_nonsense_answers_nobody_else(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may have taken it over, and what it writes next would be for the next caller."""
    script = NONSENSE.replace("{answer}", answer)
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", script])
    counts = Counts()
    async with running(processes=1, counts=counts) as decoders:
        for _ in range(2):
            with pytest.raises(DecoderDied):
                await decoded(decoders)
    assert counts.reasons == ["died", "died"]


def children() -> list[str]:
    """Processes that this one has started and that are still there."""
    return [
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
        if not has_ended(int(pid))
    ]


def test_a_decoder_closes_what_its_event_loop_left_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", "from app.pictures.decoder import main; main(2**32)"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        with process:
            job = {"fit": "crop", "preprocessing": {}, "max_pixels": 1, "cpu_seconds": 10}
            head = json.dumps(job).encode()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(LENGTHS.pack(len(head), 0) + head)
            process.stdin.flush()
            assert process.stdout.read(1) == TAKEN
            assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) == 3
            process.stdin.close()


async def test_an_idle_decoder_that_dies_is_replaced_and_nobody_notices(slow: bytes) -> None:
    counts = Counts()
    async with running(processes=1, counts=counts) as decoders:
        task = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids)
        (pid,) = decoders.pids
        await task
        os.kill(pid, signal.SIGKILL)
        await until(lambda: has_ended(pid))
        assert (await decoded(decoders)).shape == (3, 32, 32)
        assert counts.reasons == []


async def test_a_decoder_has_no_secrets_no_sockets_and_no_priority(
    slow: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIATIONS_API_KEYS", "0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    async with running() as decoders:
        task = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids and confined(decoders.pids[0]))
        (pid,) = decoders.pids
        assert_poor(pid)
        assert_clean(pid)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def assert_poor(pid: int) -> None:
    process = Path(f"/proc/{pid}")
    files = [str(file.readlink()).partition(":")[0] for file in (process / "fd").iterdir()]
    assert sorted(files) in (["/dev/null", *["pipe"] * 2], ["/dev/null", *["socket"] * 2])
    limits = (process / "limits").read_text()
    assert limit(limits, "Max open files") == ["0", "0"]
    assert limit(limits, "Max core file size") == ["0", "0"]
    assert limit(limits, "Max address space") == [str(LIMITS.memory_bytes)] * 2
    assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    assert os.getsid(pid) == os.getsid(0)  # in another, Linux would not weigh it against the worker


def assert_clean(pid: int) -> None:
    process = Path(f"/proc/{pid}")
    environment = (process / "environ").read_text()
    assert "PATH=" in environment
    assert "VARIATIONS" not in environment
    assert "hf_secret" not in environment
    assert "torch" not in (process / "maps").read_text()
    assert len(list((process / "task").iterdir())) == 1


def confined(pid: int) -> bool:
    """It has set the last of its limits."""
    return limit(Path(f"/proc/{pid}/limits").read_text(), "Max cpu time")[0] != "unlimited"


def limit(limits: str, name: str) -> list[str]:
    """The soft and the hard limit, as ``/proc/PID/limits`` has them."""
    (line,) = (line for line in limits.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()[:2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_ends_the_service_does_not_end_a_decoder(
    slow: bytes, number: signal.Signals
) -> None:
    async with running() as decoders:
        task = asyncio.create_task(decoded(decoders, slow))
        await until(lambda: decoders.pids and confined(decoders.pids[0]))
        (pid,) = decoders.pids
        os.kill(pid, number)
        assert (await task).shape == (3, 32, 32)


SERVICE = """
import asyncio, sys
from pathlib import Path
from app.parameters import Fit
from app.pictures.fit import Preprocessing
from app.pictures.sandbox import Decoders, Limits

async def main():
    decoders = Decoders(Limits.of(max_pixels=50_000_000, max_upload_bytes=2**20))
    await decoders.start()
    prepare = Preprocessing(32, False, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    data = Path(sys.argv[1]).read_bytes()
    async def read():
        return data
    task = asyncio.create_task(decoders.decode(read, fit=Fit.CROP, preprocessing=prepare))
    while not (decoders.pids or task.done()):
        await asyncio.sleep(0.01)
    print(*decoders.pids, flush=True)
    print((await task).pixels.shape, flush=True)
    await decoders.stop()

asyncio.run(main())
"""


def test_processes_end_with_the_service_even_if_it_is_killed(slow: bytes, tmp_path: Path) -> None:
    path = tmp_path / "slow.jpg"
    path.write_bytes(slow)
    command = [sys.executable, "-c", SERVICE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        service.kill()
    asyncio.run(until(lambda: has_ended(pid)))


@pytest.mark.parametrize("name", ["PIL", "json", "numpy", "torch", "app"])
def test_modules_in_the_working_folder_are_not_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(SMALL)
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-P", "-c", SERVICE, "picture.png"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.endswith("(3, 32, 32)\n")
    assert not (tmp_path / "imported").exists()


async def test_anothers_picture_is_decoded_before_the_many_slow_ones_of_one_caller(
    slow: bytes,
) -> None:
    """And one of theirs that leaves ends its process at once."""
    async with running(processes=1) as decoders:
        many = [asyncio.create_task(decoded(decoders, slow, "many")) for _ in range(6)]
        await until(lambda: decoders.pids)
        (pid,) = decoders.pids
        neighbour = asyncio.create_task(decoded(decoders, caller="neighbour"))
        await until(lambda: decoders.waiting == 6)
        many[0].cancel()
        assert (await neighbour).shape == (3, 32, 32)
        assert has_ended(pid)
        assert not any(task.done() for task in many[1:])
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        assert decoders.waiting == 0
        assert not decoders.pids


async def test_the_wait_for_a_process_is_predicted_from_those_that_decode(slow: bytes) -> None:
    async with running(processes=1) as decoders:
        await decoded(decoders, caller="neighbour")
        assert decoders.wait("neighbour") == decoders.wait("many") == 0
        tasks = [asyncio.create_task(decoded(decoders, slow, "many")) for _ in range(3)]
        await until(lambda: decoders.pids and decoders.wait("neighbour"))
        assert decoders.wait("many") > decoders.wait("neighbour")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert decoders.wait("neighbour") == 0
