"""A decoder process: uploads in through standard input, what the model takes of them out again.

:mod:`app.pictures.sandbox` starts it from a clean environment and sends one job after the other: a
JSON object and the upload's bytes, each behind its length. The answer is plain bytes, behind its
length: its reader must not have to trust a process that has read hostile files.
"""

import json
import math
import os
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image

from app.errors import BadInput
from app.parameters import Fit
from app.pictures.decode import decode
from app.pictures.fit import Preprocessing, at_size

LENGTHS: Final = struct.Struct(">II")
"""Before a job: the length of the JSON and of the upload."""
LENGTH: Final = struct.Struct(">I")
"""Before an answer."""

TAKEN: Final = b"+"
"""Written once a job has been read: a process that has ended would not."""

FITTED: Final = b"F"
"""Begins an answer whose rest is the encoder's input, float32 in C order, and where a size was
asked for the picture in that size, uint8."""
REFUSED: Final = b"R"
"""Begins an answer whose rest is the error's class, message and field as a JSON list."""
OUT_OF_MEMORY: Final = b"M"

_NICENESS = 10
_MOST_FILES = 2**20
_FIRST_TO_END = "1000"


def main(memory_bytes: str) -> None:
    """Answer jobs until standard input ends; ``memory_bytes`` limits the address space."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    Image.init()  # from here on no file can be opened, and so nothing imported
    _confine(int(memory_bytes))
    while lengths := source.read(LENGTHS.size):
        job_bytes, upload_bytes = LENGTHS.unpack(lengths)
        job = json.loads(source.read(job_bytes))
        _limit_cpu(job["cpu_seconds"])
        sink.write(TAKEN)
        sink.flush()
        _write(sink, _answer(job, source.read(upload_bytes)))


def _confine(memory_bytes: int) -> None:
    """Give up what decoding does not need."""
    if sys.platform == "linux":
        with suppress(OSError):  # where memory runs out, end this process and not the service
            Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_END)
    # asyncio leaves nothing open in a new process; uvloop leaves sockets.
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(3, files if 0 < files < _MOST_FILES else _MOST_FILES)
    os.nice(_NICENESS)  # the processor is for the model
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # and none can be closed to open another
    with suppress(ValueError, OSError):  # not every system has such a limit
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _limit_cpu(seconds: int) -> None:
    """End this process, by SIGXCPU, after so many more seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(job: dict[str, Any], data: bytes) -> bytes:
    try:
        picture = decode(data, max_pixels=job["max_pixels"])
        preprocessing, fit = Preprocessing(**job["preprocessing"]), Fit(job["fit"])
        answer = FITTED + preprocessing(picture, fit).tobytes()
        return answer + at_size(picture, job["size"], fit).tobytes() if job["size"] else answer
    except BadInput as error:
        return REFUSED + json.dumps((type(error).__name__, error.message, error.field)).encode()
    except MemoryError:
        return OUT_OF_MEMORY


def _write(sink: BinaryIO, answer: bytes) -> None:
    sink.write(LENGTH.pack(len(answer)) + answer)
    sink.flush()
