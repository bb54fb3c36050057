"""Workers whose turns a test takes itself, and workers in a real process."""

import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app import launch
from app.ipc.messages import (
    Done,
    Failed,
    FromWorker,
    LoadFailed,
    PictureDone,
    Ready,
    Start,
    Submit,
    ToWorker,
)
from app.parameters import EncoderInput, Fit, ModelConfig, Parameters, Scheduler
from app.pipeline import Pipeline
from app.scheduling.batcher import Batcher
from app.worker.loop import Inbox, Worker
from app.worker.side import Beside, InTurn, Side
from app.worker.tuning import Tuning
from tests.support.checkpoints import SMALL
from tests.support.requests import condition_for

PARAMETERS = Parameters(1, 3.0, 4, Scheduler.DDIM, 7, *SMALL, Fit.SQUASH)
MIXED = {
    "pndm": replace(PARAMETERS, n=2, scheduler=Scheduler.PNDM, num_inference_steps=6),
    "euler": replace(PARAMETERS, scheduler=Scheduler.EULER, guidance_scale=7.5, seed=1),
    "plain": replace(PARAMETERS, scheduler=Scheduler.DEIS, guidance_scale=1.0),
}

LONGEST_WAIT = 100.0

M = TypeVar("M", bound=FromWorker)


def submit(
    name: str, parameters: Parameters = PARAMETERS, picture: EncoderInput | None = None
) -> Submit:
    """A request with this picture, or one of noise."""
    return Submit(name, parameters, condition_for(parameters, picture))


def beside(inbox: Inbox) -> Side:
    """The side of a GPU's worker: a thread."""
    return Beside("cpu", lambda done: inbox.put((0.0, done)))


@dataclass(frozen=True, slots=True)
class Posting:
    """A side that works like that of a GPU's worker, in the thread of its test."""

    inbox: Inbox
    beside = True

    def run(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        result = job()
        self.inbox.put((0.0, lambda: then(result)))


@dataclass(frozen=True, slots=True)
class Harness:
    """A worker whose turns the test takes itself, with all it has said in ``said``."""

    worker: Worker
    inbox: Inbox
    said: list[FromWorker]

    @classmethod
    def over(
        cls,
        pipeline: Pipeline,
        buckets: Sequence[int] = (16,),
        at_once: int = 4,
        *,
        side: "Callable[[Inbox], Side]" = lambda _: InTurn(),
    ) -> "Harness":
        inbox: Inbox = SimpleQueue()
        said: list[FromWorker] = []
        batcher = Batcher(buckets)
        tuning = Tuning.none(batcher.cap)
        worker = Worker(pipeline, batcher, inbox, said.append, at_once, tuning, side(inbox))
        return cls(worker, inbox, said)

    def tell(self, *messages: ToWorker) -> None:
        for message in messages:
            self.inbox.put((0.0, message))

    def turn_until(self, finished: Callable[[], bool]) -> None:
        for turn in count():
            if finished():
                return
            assert turn < 200, "it never happens"
            self.worker.turn()

    def answer_all(self, *submits: Submit) -> dict[str, Done | Failed]:
        self.tell(*submits)
        self.turn_until(lambda: len(self.answers) == len(submits))
        return self.answers

    @property
    def answers(self) -> dict[str, Done | Failed]:
        return {m.request_id: m for m in self.said if isinstance(m, Done | Failed)}

    def said_of(self, kind: type[M]) -> list[M]:
        return [message for message in self.said if isinstance(message, kind)]

    def pictures(self, name: str) -> NDArray[np.int16]:
        """The pictures of a request that is done, by index."""
        assert isinstance(self.answers[name], Done), self.answers[name]
        sent = {m.index: m.picture for m in self.said_of(PictureDone) if m.request_id == name}
        found = [picture for _, picture in sorted(sent.items()) if picture is not None]
        return np.stack(found).astype(np.int16)


def made_alone(pipeline: Pipeline, request: Submit) -> NDArray[np.int16]:
    """The pictures of a request that has the worker to itself."""
    harness = Harness.over(pipeline)
    harness.answer_all(request)
    return harness.pictures(request.request_id)


def assert_same(pictures: NDArray[np.int16], others: NDArray[np.int16]) -> None:
    """Equal but for rounding."""
    assert np.abs(pictures - others).max() <= 1


def start_message(model: str = "demo", **options: object) -> Start:
    """A start of a small row cap, on the CPU."""
    config = ModelConfig(model, device="cpu", dtype="float32")
    values: dict[str, object] = {"max_rows": 4, "fixed_bucket": False, "log_level": "error"}
    return Start(config, **(values | options))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker process as the API process sees it, but for its threads."""

    process: subprocess.Popen[bytes]
    pipe: Connection

    def heard_until(self, *kinds: type[FromWorker]) -> list[FromWorker]:
        """All messages up to the first of one of ``kinds``."""
        heard: list[FromWorker] = []
        while not heard or not isinstance(heard[-1], kinds):
            assert self.pipe.poll(LONGEST_WAIT), f"nothing more after {heard[-1:]}"
            heard.append(self.pipe.recv())
        return heard

    def started(self, start: Start) -> list[FromWorker]:
        self.pipe.send(start)
        return self.heard_until(Ready, LoadFailed)


@contextmanager
def worker_process() -> Iterator[WorkerProcess]:
    """A worker in a process of its own, which ends with its pipe."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = launch.command("app.worker.main", str(theirs.fileno()))
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    with process, Connection(ours.detach()) as pipe:
        try:
            yield WorkerProcess(process, pipe)
        finally:
            process.kill()
