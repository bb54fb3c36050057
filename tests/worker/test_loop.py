"""The worker's turns, taken one by one over a real pipeline with random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.ipc.messages import (
    Cancel,
    Done,
    Dropped,
    Embedding,
    Encoded,
    Failed,
    FromWorker,
    RanOut,
    Stats,
    Submit,
    ToWorker,
)
from app.parameters import Fit, Parameters, Scheduler
from app.pictures import Picture
from app.pipeline import Decoded, Pipeline, Sample, Step
from app.scheduling.batcher import Batcher
from app.worker.loop import NOT_DECODED, NOT_ENCODED, NOT_STEPPED, Inbox, Worker
from tests.support.checkpoints import SMALL, WIDE

PARAMETERS = Parameters(1, 3.0, 4, Scheduler.DDIM, 7, *SMALL, Fit.SQUASH)
MIXED = {
    "pndm": replace(PARAMETERS, n=2, scheduler=Scheduler.PNDM, num_inference_steps=6),
    "euler": replace(PARAMETERS, scheduler=Scheduler.EULER, guidance_scale=7.5, seed=1),
    "plain": replace(PARAMETERS, scheduler=Scheduler.DEIS, guidance_scale=1.0),
}
M = TypeVar("M")


def a_picture(seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Bench:
    """A worker whose turns the test takes itself, with all it has said in ``said``."""

    worker: Worker
    inbox: Inbox
    said: list[FromWorker]

    @classmethod
    def over(
        cls, pipeline: Pipeline, buckets: Sequence[int] = (16,), decoded_at_once: int = 4
    ) -> "Bench":
        inbox: Inbox = SimpleQueue()
        said: list[FromWorker] = []
        batcher = Batcher(buckets)
        worker = Worker(pipeline, batcher, inbox, said.append, decoded_at_once=decoded_at_once)
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


def submit(name: str, parameters: Parameters = PARAMETERS, source: object = None) -> Submit:
    picture = a_picture() if source is None else np.asarray(source)
    return Submit(name, parameters, picture)


def pictures(answer: Done | Failed) -> NDArray[np.int16]:
    assert isinstance(answer, Done), answer
    return np.stack([picture for picture in answer.pictures if picture is not None]).astype(
        np.int16
    )


def assert_same(one: Done | Failed, other: Done | Failed) -> None:
    """Equal but for rounding."""
    difference = np.abs(pictures(one) - pictures(other))
    assert difference.max() <= 1


def alone(pipeline: Pipeline, request: Submit) -> Done | Failed:
    return Bench.over(pipeline).answer_all(request)[request.request_id]


def test_mixed_requests_share_steps_and_come_out_as_if_alone(pipeline: Pipeline) -> None:
    requests = [submit(name, parameters) for name, parameters in MIXED.items()]
    bench = Bench.over(pipeline)
    answers = bench.answer_all(*requests)
    assert max(stats.requests for stats in bench.said_of(Stats)) == 3
    assert max(stats.schedules for stats in bench.said_of(Stats)) == 3
    for request in requests:
        assert_same(answers[request.request_id], alone(pipeline, request))


def test_pictures_come_in_the_order_of_their_seeds(pipeline: Pipeline) -> None:
    both = alone(pipeline, submit("both", replace(PARAMETERS, n=2)))
    second = alone(pipeline, submit("second", replace(PARAMETERS, seed=PARAMETERS.seed + 1)))
    assert np.abs(pictures(both)[1:] - pictures(second)).max() <= 1
    assert np.abs(pictures(both)[0] - pictures(second)[0]).max() > 1


def test_sizes_take_turns_and_both_come_out(pipeline: Pipeline) -> None:
    wide = submit("wide", replace(PARAMETERS, width=WIDE[0], height=WIDE[1]))
    answers = Bench.over(pipeline).answer_all(submit("small"), wide)
    assert pictures(answers["small"]).shape == (1, 64, 64, 3)
    assert pictures(answers["wide"]).shape == (1, 64, 128, 3)


def test_past_the_cap_everybody_is_served_all_the_same(pipeline: Pipeline) -> None:
    bench = Bench.over(pipeline, buckets=(2, 4))
    answers = bench.answer_all(submit("many", replace(PARAMETERS, n=5)), submit("one"))
    assert max(stats.rows for stats in bench.said_of(Stats)) == 4
    assert len(pictures(answers["many"])) == 5
    assert len(pictures(answers["one"])) == 1


def test_one_fixed_bucket_gives_the_same_bytes_in_any_company(pipeline: Pipeline) -> None:
    requests = [submit(name, parameters) for name, parameters in MIXED.items()]
    together = Bench.over(pipeline, buckets=(16,), decoded_at_once=1).answer_all(*requests)
    for request in requests:
        bench = Bench.over(pipeline, buckets=(16,), decoded_at_once=1)
        single = bench.answer_all(request)[request.request_id]
        np.testing.assert_array_equal(pictures(together[request.request_id]), pictures(single))
        assert {stats.bucket for stats in bench.said_of(Stats)} == {16}


def test_the_embedding_comes_back_and_makes_the_same_pictures(pipeline: Pipeline) -> None:
    bench = Bench.over(pipeline)
    first = bench.answer_all(submit("first"))["first"]
    [encoded] = bench.said_of(Encoded)
    assert_same(alone(pipeline, submit("again", source=encoded.embedding)), first)


def test_a_cancelled_request_takes_no_further_step(pipeline: Pipeline) -> None:
    bench = Bench.over(pipeline)
    long = replace(PARAMETERS, n=4, num_inference_steps=50)
    bench.tell(submit("long", long), submit("short"))
    bench.turn_until(lambda: any(stats.requests == 2 for stats in bench.said_of(Stats)))
    before = len(bench.said_of(Stats))
    bench.tell(Cancel("long"))
    bench.turn_until(lambda: "short" in bench.answers)
    assert bench.said_of(Dropped) == [Dropped("long")]
    assert {stats.rows for stats in bench.said_of(Stats)[before:]} == {2}
    assert_same(bench.answers["short"], alone(pipeline, submit("short")))


@pytest.mark.parametrize("turns", [0, 1, 3, 5, 6])
def test_cancelling_at_any_moment_is_not_answered(pipeline: Pipeline, turns: int) -> None:
    bench = Bench.over(pipeline)
    bench.tell(submit("gone", replace(PARAMETERS, n=6)))
    for _ in range(turns):
        if not bench.answers:
            bench.worker.turn()
    finished = set(bench.answers)
    bench.tell(Cancel("gone"), submit("next"))
    bench.turn_until(lambda: "next" in bench.answers)
    assert set(bench.answers) == finished | {"next"}


def test_stages_cover_the_request_without_a_gap(pipeline: Pipeline) -> None:
    answer = alone(pipeline, submit("timed", replace(MIXED["pndm"], n=1)))
    assert isinstance(answer, Done)
    assert answer.steps == 7  # PNDM visits one timestep twice
    stages = sorted(answer.stages, key=lambda stage: stage.began)
    names = [stage.name for stage in stages]
    assert names == ["queue", "encode", "queue", "denoise", "decode", "safety"]
    for stage, following in pairwise(stages):
        assert stage.began <= stage.ended <= following.began


@dataclass(frozen=True)
class QueuedStep(Step):
    """A step that notes when it was waited for."""

    log: list[str] = field(default_factory=list)
    number: int = 0

    def wait(self) -> None:
        self.log.append(f"wait {self.number}")


class Queueing(Pipeline):
    """The real pipeline, said to be on a device that works on while the next step is queued."""

    log: list[str]

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        step = super().step(samples, bucket)
        number = sum(entry.startswith("submit") for entry in self.log)
        self.log.append(f"submit {number}")
        return QueuedStep(step.rows, step.bucket, log=self.log, number=number)


def test_at_most_one_step_is_queued_behind_the_one_under_way(
    tiny_checkpoint: Path, pipeline: Pipeline
) -> None:
    queueing = Queueing.load(str(tiny_checkpoint), device="cpu", dtype="float32")
    assert isinstance(queueing, Queueing)
    queueing.log = []
    queueing.model = replace(queueing.model, device="cuda:0")
    answer = alone(queueing, submit("queued"))
    assert queueing.log == [
        "submit 0",
        *("submit 1", "wait 0"),
        *("submit 2", "wait 1"),
        *("submit 3", "wait 2"),
        "wait 3",
    ]
    assert_same(answer, alone(pipeline, submit("queued")))


def test_what_is_said_to_be_dropped_is_not_on_the_device_any_more(tiny_checkpoint: Path) -> None:
    queueing = Queueing.load(str(tiny_checkpoint), device="cpu", dtype="float32")
    assert isinstance(queueing, Queueing)
    queueing.log = []
    queueing.model = replace(queueing.model, device="cuda:0")
    bench = Bench.over(queueing)
    bench.tell(submit("gone"))
    bench.turn_until(lambda: len(queueing.log) >= 3)
    assert queueing.log == ["submit 0", "submit 1", "wait 0"]
    bench.tell(Cancel("gone"), submit("next"))
    bench.turn_until(lambda: bool(bench.said_of(Dropped)))
    assert queueing.log[3] == "wait 1"


# One request's misfortune


def nan_embedding() -> Embedding:
    return np.full(24, np.nan, np.float32)


def overflowing_embedding() -> Embedding:
    return np.full(24, 1e38, np.float32)


@pytest.mark.parametrize(
    "source",
    [
        nan_embedding(),
        overflowing_embedding(),
        np.zeros(3, np.float32),
        np.zeros((0, 0, 3), np.uint8),
    ],
    ids=["not finite", "overflows on the way", "of another length", "not a picture"],
)
def test_a_bad_request_fails_alone(pipeline: Pipeline, source: object) -> None:
    good = submit("good")
    answers = Bench.over(pipeline).answer_all(submit("bad", source=source), good)
    assert isinstance(answers["bad"], Failed)
    assert_same(answers["good"], alone(pipeline, good))


def test_a_request_that_fails_by_one_picture_is_answered_once(pipeline: Pipeline) -> None:
    bench = Bench.over(pipeline)
    bad = submit("bad", replace(PARAMETERS, n=3), overflowing_embedding())
    bench.answer_all(bad, submit("good"))
    assert len(bench.said_of(Failed)) == 1


class Breaking(Pipeline):
    """The real pipeline, made to raise in one of its verbs for samples of one seed."""

    verb = ""
    error: Exception = RuntimeError("no such kernel at /secret/path")
    culprit: Sample | None = None

    def encode(self, picture: Picture, fit: Fit) -> Embedding:
        if self.verb == "encode" and picture[0, 0, 0] == 255:
            raise self.error
        return super().encode(picture, fit)

    def start(self, embedding: Embedding, parameters: Parameters, index: int) -> Sample:
        sample = super().start(embedding, parameters, index)
        if parameters.seed == 666:
            self.culprit = sample
        return sample

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        if self.verb == "step" and any(s is self.culprit and s.steps_left == 2 for s in samples):
            raise self.error
        return super().step(samples, bucket)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        if self.verb == "decode" and self.culprit in samples:
            raise self.error
        return super().decode(samples, before_check)


@pytest.mark.parametrize(
    ("verb", "message"),
    [("encode", NOT_ENCODED), ("step", NOT_STEPPED), ("decode", NOT_DECODED)],
)
def test_an_error_of_the_library_fails_its_cause_alone(
    tiny_checkpoint: Path, pipeline: Pipeline, verb: str, message: str
) -> None:
    breaking = Breaking.load(str(tiny_checkpoint), device="cpu", dtype="float32")
    assert isinstance(breaking, Breaking)
    breaking.verb = verb
    white = np.full((8, 8, 3), 255, np.uint8)
    good = [submit("first", MIXED["pndm"]), submit("last", MIXED["plain"])]
    bad = submit("bad", replace(PARAMETERS, n=2, seed=666), white)
    answers = Bench.over(breaking).answer_all(good[0], bad, good[1])
    assert answers["bad"] == Failed("bad", message)
    for request in good:
        assert_same(answers[request.request_id], alone(pipeline, request))


class Stumbling(Pipeline):
    """The real pipeline, whose next call of one verb raises."""

    verb = ""
    error: Exception

    def encode(self, picture: Picture, fit: Fit) -> Embedding:
        self._stumble("encode")
        return super().encode(picture, fit)

    def start(self, embedding: Embedding, parameters: Parameters, index: int) -> Sample:
        self._stumble("start")
        return super().start(embedding, parameters, index)

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        self._stumble("step")
        return super().step(samples, bucket)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        self._stumble("decode")
        return super().decode(samples, before_check)

    def _stumble(self, verb: str) -> None:
        if verb == self.verb:
            self.verb = ""
            raise self.error


@pytest.mark.parametrize("verb", ["encode", "start", "step", "decode"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "CUDA", "cuDNN"],
)
def test_memory_that_runs_out_once_fails_nobody(
    tiny_checkpoint: Path, pipeline: Pipeline, verb: str, error: Exception
) -> None:
    stumbling = Stumbling.load(str(tiny_checkpoint), device="cpu", dtype="float32")
    assert isinstance(stumbling, Stumbling)
    stumbling.verb, stumbling.error = verb, error
    bench = Bench.over(stumbling)
    requests = [submit("first", MIXED["pndm"]), submit("last", MIXED["plain"])]
    bench.answer_all(*requests)
    assert len(bench.said_of(RanOut)) == 1
    for request in requests:
        assert_same(bench.answers[request.request_id], alone(pipeline, request))


@pytest.mark.parametrize("verb", ["encode", "step", "decode"])
def test_a_lost_device_ends_the_worker(tiny_checkpoint: Path, verb: str) -> None:
    breaking = Breaking.load(str(tiny_checkpoint), device="cpu", dtype="float32")
    assert isinstance(breaking, Breaking)
    breaking.verb = verb
    breaking.error = torch.AcceleratorError("CUDA error: an illegal memory access")
    bench = Bench.over(breaking)
    white = np.full((8, 8, 3), 255, np.uint8)
    with pytest.raises(torch.AcceleratorError):
        bench.answer_all(submit("bad", replace(PARAMETERS, seed=666), white))
    assert bench.answers == {}
