"""Encodes and decodes: in turn with the steps on a CPU, beside them on a GPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn, Protocol, TypeVar

import torch

T = TypeVar("T")


class Side(Protocol):
    """Runs jobs one after the other and hands their results to the loop."""

    beside: bool
    """Steps go on meanwhile."""

    def run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run ``job``, and have the loop's thread call ``then`` with its result."""


class InTurn:
    """Runs a job at once: steps beside it would only take its cores."""

    beside = False

    def run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run ``job``, then ``then``."""
        then(job())


class Beside:
    """Runs jobs in a thread of its own, and on a GPU on a stream of its own.

    ``post`` has the loop's thread call what it is given: with a result once the device has done
    the job, or to raise the job's error there.
    """

    beside = True

    def __init__(self, device: str, post: Callable[[Callable[[], None]], None]) -> None:
        self._device = torch.device(device)
        self._post = post
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = SimpleQueue()
        threading.Thread(target=self._work, name="side", daemon=True).start()

    def run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Put ``job`` behind those that wait."""
        self._jobs.put((job, then))

    def _work(self) -> NoReturn:
        with _own_stream(self._device) as done:
            while True:
                job, then = self._jobs.get()
                try:
                    result = job()
                    done()
                except BaseException as error:
                    self._post(partial(_raise, error))
                else:
                    self._post(partial(then, result))
                del job, then  # with the tensors in them


@contextmanager
def _own_stream(device: torch.device) -> Iterator[Callable[[], None]]:
    """What this thread does goes to a stream of its own; gives what waits until that has done it.

    The stream begins with what has been waited for: it reads nothing that is still being made.
    """
    if device.type != "cuda":
        yield lambda: None
        return
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def wait() -> None:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        event.synchronize()

    with torch.cuda.stream(stream):
        yield wait


def _raise(error: BaseException) -> NoReturn:
    raise error
