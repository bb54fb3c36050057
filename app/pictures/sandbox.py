"""Decoder processes for uploads, with limits and without keys or sockets.

A file that a library takes too long over, or that makes it crash, costs its own upload an answer
and no other. No pool of processes from a library serves here: they unpickle what a process answers
that may have been taken over by a file, and hand their own environment down to it.
"""

import asyncio
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Literal, Protocol, Self, cast

import numpy as np

from app import launch
from app.cores import usable_cores
from app.errors import (
    BadInput,
    DecoderDied,
    FormatNotAllowed,
    NotAPicture,
    NotReady,
    TooCostly,
    TooLarge,
)
from app.parameters import Fit, Size
from app.pictures.decode import BYTES_PER_PIXEL
from app.pictures.decoder import FITTED, LENGTH, LENGTHS, OUT_OF_MEMORY, REFUSED, TAKEN
from app.pictures.fit import Fitted, Preprocessing
from app.pictures.formats.contents import FIELD
from app.pictures.turns import Turns

logger = logging.getLogger(__name__)

Reason = Literal["cpu", "time", "memory", "died"]

RETRY_SECONDS: Final = 5.0
"""Seconds after which to ask again where no process can be started."""

MOST_PROCESSES: Final = 4
"""Decoders at once unless told otherwise; fewer where this machine has fewer cores."""

_COPIES_OF_THE_FILE = 4
_INTERPRETER_BYTES = 512 * 2**20
"""Address space of Python and its libraries: 120 MB where locales are few, and room."""

_CHUNK_BYTES = 2**18
_ENDED = (ConnectionError, RuntimeError)
"""Raised by writing to a process that has ended: by asyncio the one, by uvloop the other."""

_REFUSALS = {kind.__name__: kind for kind in (NotAPicture, FormatNotAllowed, TooLarge)}
_REFUSAL_BYTES = 4096

_ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"),
)
"""Variables by which Python finds itself and its packages; all others stay here."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Metrics(Protocol):
    """The numbers that decoders report."""

    def failed(self, reason: Reason) -> None:
        """A decoder was ended, or ended, without an answer."""

    def watch(self, waiting: Callable[[], int]) -> None:
        """Show the result of ``waiting``: uploads that wait for a process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one picture may cost.

    ``cpu_seconds`` are of the processor and ``seconds`` of the clock; ``memory_bytes`` are of
    address space, with the interpreter's.
    """

    max_pixels: int
    cpu_seconds: int
    seconds: float
    memory_bytes: int

    @classmethod
    def of(
        cls, *, max_pixels: int, max_upload_bytes: int, cpu_seconds: int = 20, seconds: float = 60.0
    ) -> Self:
        """Limits with as much memory as the largest picture that is accepted can need."""
        files = _COPIES_OF_THE_FILE * max_upload_bytes
        memory_bytes = BYTES_PER_PIXEL * max_pixels + files + _INTERPRETER_BYTES
        return cls(max_pixels, cpu_seconds, seconds, memory_bytes)


class Decoders:
    """A pool of decoder processes; belongs to the event loop that starts it.

    As many uploads wait as call :meth:`decode`: the caller bounds them.
    """

    def __init__(
        self,
        limits: Limits,
        processes: int | Literal["auto"] = "auto",
        metrics: Metrics | None = None,
    ) -> None:
        self._limits = limits
        self._processes = _default_processes() if processes == "auto" else processes
        self._metrics = metrics
        self._turns = Turns(self._processes)
        self._idle: list[Process] = []
        self._offered: set[Process] = set()
        self._running: set[Process] = set()
        self._stopped = False
        if metrics:
            metrics.watch(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Uploads that wait for a process."""
        return self._turns.waiting

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that decode now."""
        return [process.pid for process in self._running]

    async def start(self) -> None:
        """Launch the processes; they warm up meanwhile. Those that cannot be are when needed."""
        with suppress(OSError):
            while len(self._idle) < self._processes:
                self._idle.append(await self._launch())

    async def stop(self) -> None:
        """End every process; uploads that are being decoded, or wait to be, fail."""
        self._stopped = True
        await asyncio.gather(*map(_end, [*self._idle, *self._offered, *self._running]))
        self._idle.clear()

    def wait(self, caller: str = "", uploads: int = 1) -> float:
        """Seconds until there would be a process for the last of so many uploads of this caller."""
        return self._turns.wait(caller, uploads)

    async def decode(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        fit: Fit,
        preprocessing: Preprocessing,
        caller: str = "",
        size: Size | None = None,
    ) -> Fitted:
        """Decode and fit an upload, and bring it to an output ``size`` as well where one is given.

        Callers are served in turn, by their names. ``read`` gives the upload's bytes, and is called
        once there is a process for them: until then a large one can stay where it is. Raises the
        errors of :func:`app.pictures.decode.decode`, :class:`TooCostly` where it takes more than
        the limits allow, :class:`DecoderDied`, and :class:`NotReady` where no process can be
        started, or is to be. When cancelled, the process is ended.
        """
        async with self._turns.turn(caller):
            return await self._decode(await read(), fit, preprocessing, size)

    async def _decode(
        self, data: bytes, fit: Fit, preprocessing: Preprocessing, size: Size | None
    ) -> Fitted:
        job = {
            "fit": fit,
            "size": size,
            "preprocessing": asdict(preprocessing),
            "max_pixels": self._limits.max_pixels,
            "cpu_seconds": self._limits.cpu_seconds,
        }
        side = preprocessing.side
        process = await self._take(json.dumps(job).encode(), len(data))
        self._running.add(process)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await _send(process, data)
                most = _REFUSAL_BYTES + 12 * side * side + _picture_bytes(size)
                answer = await _receive(process, most)
            outcome = self._unpacked(answer, side, size)
            if not self._stopped:
                self._idle.append(process)
        except TimeoutError:
            raise self._failure("time") from None
        except (*_ENDED, ValueError, asyncio.IncompleteReadError):
            await _end(process)
            code = process.returncode
            raise self._failure("cpu" if code == -signal.SIGXCPU else "died", code) from None
        finally:
            self._running.discard(process)
            if process not in self._idle:
                await _end(process)
        if isinstance(outcome, BadInput):
            raise outcome
        return outcome

    async def _take(self, job: bytes, upload_bytes: int) -> Process:
        """A process that has taken the job. One that had nothing to do may have ended meanwhile."""
        head = LENGTHS.pack(len(job), upload_bytes) + job
        while self._idle:
            process = self._idle.pop()
            if await self._offer(process, head):
                return process
        launched = asyncio.ensure_future(self._launch())
        try:
            process = await asyncio.shield(launched)
        except asyncio.CancelledError:  # a half-launched process would be left to itself
            with suppress(OSError):
                await _end(await launched)
            raise
        except OSError as error:  # too many processes or files, too little memory: it may pass
            raise NotReady(
                "No process could be started to decode the picture", retry_after=RETRY_SECONDS
            ) from error
        if self._stopped:
            await _end(process)
            raise NotReady("The service is stopping", retry_after=RETRY_SECONDS)
        if not await self._offer(process, head):
            logger.error("A new decoder ended at once, with exit code %s", process.returncode)
            raise NotReady("No decoder process keeps running", retry_after=RETRY_SECONDS)
        return process

    async def _offer(self, process: Process, head: bytes) -> bool:
        """Send the head of a job, and wait until it is taken; a process that does not is ended."""
        taken = False
        self._offered.add(process)
        try:
            with suppress(*_ENDED, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self._limits.seconds):
                    await _send(process, head)
                    taken = await _stdout(process).readexactly(len(TAKEN)) == TAKEN
        finally:
            self._offered.discard(process)
            if not taken:
                await _end(process)
        return taken

    async def _launch(self) -> Process:
        # In our own session: in one of its own, Linux would not weigh its niceness against ours.
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return await asyncio.create_subprocess_exec(
            *launch.command("app.pictures.decoder", str(self._limits.memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment | _ONE_THREAD,
            cwd="/",
        )

    def _unpacked(self, answer: bytes, side: int, size: Size | None) -> Fitted | BadInput:
        """The result or the refusal. Raises :class:`ValueError` where it is neither.

        A file that took its decoder over can answer what it likes, so nothing is unpickled, and a
        process that answers nonsense is not used again.
        """
        kind, rest = answer[:1], answer[1:]
        pixel_bytes = 12 * side * side
        if kind == FITTED and len(rest) == pixel_bytes + _picture_bytes(size):
            pixels = np.frombuffer(rest[:pixel_bytes], np.float32).reshape(3, side, side).copy()
            picture = np.frombuffer(rest[pixel_bytes:], np.uint8).copy()
            return Fitted(pixels, picture.reshape(size[1], size[0], 3) if size else None)
        if kind == OUT_OF_MEMORY:
            return self._failure("memory")
        if kind == REFUSED:
            with suppress(LookupError, TypeError, RecursionError):
                name, message, field = json.loads(rest)
                return _REFUSALS[name](str(message), field=str(field))
        raise ValueError("not an answer")

    def _failure(self, reason: Reason, code: int | None = None) -> BadInput:
        if self._metrics:
            self._metrics.failed(reason)
        if reason == "died":
            logger.warning("A decoder ended without an answer, with exit code %s", code)
            return DecoderDied(
                "The process that decoded the picture ended before it was done; send it again, "
                "or save it anew as PNG or JPEG",
                field=FIELD,
            )
        most = {
            "cpu": f"{self._limits.cpu_seconds} seconds of CPU time",
            "time": f"{self._limits.seconds:g} seconds",
            "memory": f"{self._limits.memory_bytes / 2**20:,.0f} MiB of memory",
        }[reason]
        return TooCostly(
            f"Decoding the picture takes more than {most}; send a smaller one, or save it anew "
            "as PNG or JPEG",
            field=FIELD,
        )


def _picture_bytes(size: Size | None) -> int:
    return 3 * size[0] * size[1] if size else 0


def _default_processes() -> int:
    return min(MOST_PROCESSES, usable_cores())


async def _send(process: Process, data: bytes) -> None:
    """Send in chunks: a large upload holds up nothing else. :class:`ConnectionError` at its end."""
    stdin, upload = cast("asyncio.StreamWriter", process.stdin), memoryview(data)
    for start in range(0, len(data), _CHUNK_BYTES):
        stdin.write(upload[start : start + _CHUNK_BYTES])
        await stdin.drain()


async def _receive(process: Process, most: int) -> bytes:
    """The answer; empty if it would be longer than ``most`` bytes."""
    (length,) = LENGTH.unpack(await _stdout(process).readexactly(LENGTH.size))
    return await _stdout(process).readexactly(length) if length <= most else b""


def _stdout(process: Process) -> asyncio.StreamReader:
    return cast("asyncio.StreamReader", process.stdout)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
