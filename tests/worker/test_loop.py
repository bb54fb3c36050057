"""The worker's turns, taken one by one over a real pipeline with random weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from app.ipc.messages import (
    Cancel,
    DecodeStats,
    Done,
    Dropped,
    Encoded,
    Failed,
    PictureDone,
    StepStats,
    Submit,
)
from app.parameters import Condition, ConditionRow, ModelConfig, Parameters, Scheduler
from app.pipeline import Pipeline, Posterior, Row, Sample, Step
from app.worker.loop import NOT_ENCODED, Inbox
from app.worker.side import InTurn, Side
from tests.support.checkpoints import WIDE
from tests.support.requests import encoder_input
from tests.support.workers import (
    MIXED,
    PARAMETERS,
    Harness,
    Posting,
    assert_same,
    made_alone,
    submit,
)


def test_mixed_requests_share_steps_and_come_out_as_if_alone(pipeline: Pipeline) -> None:
    requests = [submit(name, parameters) for name, parameters in MIXED.items()]
    harness = Harness.over(pipeline)
    harness.answer_all(*requests)
    assert max(stats.requests for stats in harness.said_of(StepStats)) == 3
    assert max(stats.schedules for stats in harness.said_of(StepStats)) == 3
    for request in requests:
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


def test_pictures_have_the_index_of_their_seed(pipeline: Pipeline) -> None:
    both = made_alone(pipeline, submit("both", replace(PARAMETERS, n=2)))
    second = made_alone(pipeline, submit("second", replace(PARAMETERS, seed=PARAMETERS.seed + 1)))
    assert_same(both[1:], second)
    assert np.abs(both[0] - second[0]).max() > 1


def test_a_picture_is_sent_before_the_next_ones_are_decoded(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline, at_once=2)
    harness.answer_all(submit("five", replace(PARAMETERS, n=5)))
    told = [m for m in harness.said if isinstance(m, DecodeStats | PictureDone | Done)]
    kinds = [type(message).__name__ for message in told]
    two = ["DecodeStats", "PictureDone", "PictureDone"]
    assert kinds == [*two, *two, "DecodeStats", "PictureDone", "Done"]
    assert [m.index for m in told if isinstance(m, PictureDone)] == [0, 1, 2, 3, 4]


def test_sizes_take_turns_and_both_come_out(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline)
    wide = submit("wide", replace(PARAMETERS, width=WIDE[0], height=WIDE[1]))
    harness.answer_all(submit("small"), wide)
    assert harness.pictures("small").shape == (1, 64, 64, 3)
    assert harness.pictures("wide").shape == (1, 64, 128, 3)


def test_past_the_cap_everybody_is_served_all_the_same(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline, buckets=(2, 4))
    harness.answer_all(submit("many", replace(PARAMETERS, n=5)), submit("one"))
    assert max(stats.rows for stats in harness.said_of(StepStats)) == 4
    assert len(harness.pictures("many")) == 5
    assert len(harness.pictures("one")) == 1


def test_one_fixed_bucket_gives_the_same_bytes_in_any_company(pipeline: Pipeline) -> None:
    requests = [submit(name, parameters) for name, parameters in MIXED.items()]
    together = Harness.over(pipeline, buckets=(16,), at_once=1)
    together.answer_all(*requests)
    for request in requests:
        single = Harness.over(pipeline, buckets=(16,), at_once=1)
        single.answer_all(request)
        name = request.request_id
        np.testing.assert_array_equal(together.pictures(name), single.pictures(name))
        assert {stats.bucket for stats in single.said_of(StepStats)} == {16}


def test_the_same_message_again_makes_the_same_pictures(pipeline: Pipeline) -> None:
    request = submit("again", MIXED["pndm"])
    np.testing.assert_array_equal(made_alone(pipeline, request), made_alone(pipeline, request))


def test_a_cancelled_request_takes_no_further_step(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline)
    long = replace(PARAMETERS, n=4, num_inference_steps=50)
    harness.tell(submit("long", long), submit("short"))
    harness.turn_until(lambda: any(stats.requests == 2 for stats in harness.said_of(StepStats)))
    before = len(harness.said_of(StepStats))
    harness.tell(Cancel("long"))
    harness.turn_until(lambda: "short" in harness.answers)
    assert harness.said_of(Dropped) == [Dropped("long")]
    assert {stats.rows for stats in harness.said_of(StepStats)[before:]} == {2}
    assert_same(harness.pictures("short"), made_alone(pipeline, submit("short")))


@pytest.mark.parametrize("turns", [0, 1, 3, 5, 6])
def test_cancelling_at_any_moment_is_not_answered(pipeline: Pipeline, turns: int) -> None:
    harness = Harness.over(pipeline)
    harness.tell(submit("gone", replace(PARAMETERS, n=6)))
    for _ in range(turns):
        if not harness.answers:
            harness.worker.turn()
    finished, pictures = set(harness.answers), len(harness.said_of(PictureDone))
    harness.tell(Cancel("gone"), submit("next"))
    harness.turn_until(lambda: "next" in harness.answers)
    assert set(harness.answers) == finished | {"next"}
    assert {m.request_id for m in harness.said_of(PictureDone)[pictures:]} == {"next"}


def test_stages_cover_the_request_without_a_gap(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline)
    answer = harness.answer_all(submit("timed", replace(MIXED["pndm"], n=1)))["timed"]
    assert isinstance(answer, Done)
    assert answer.steps == 7  # PNDM visits one timestep twice
    stages = sorted(answer.stages, key=lambda stage: stage.began)
    names = [stage.name for stage in stages]
    assert names == ["queue", "encode", "queue", "denoise", "decode", "safety"]
    for stage, following in pairwise(stages):
        assert stage.began <= stage.ended <= following.began
    [encoded] = harness.said_of(Encoded)
    assert encoded.seconds >= stages[1].ended - stages[1].began


def test_what_comes_together_is_encoded_together(pipeline: Pipeline) -> None:
    requests = [submit(str(seed), replace(PARAMETERS, seed=seed)) for seed in range(6)]
    harness = Harness.over(pipeline)
    harness.tell(*requests)
    harness.worker.turn()
    assert [m.request_id for m in harness.said_of(Encoded)] == ["0", "1", "2", "3"]
    [first] = harness.said_of(StepStats)
    assert first.rows == 8
    harness.turn_until(lambda: len(harness.answers) == 6)
    for request in requests:
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


@pytest.mark.parametrize(
    ("side", "encoded"), [(lambda _: InTurn(), "ab"), (Posting, "abcd")], ids=["in turn", "beside"]
)
def test_an_encode_that_holds_steps_up_waits_for_room_in_them(
    pipeline: Pipeline, side: "Callable[[Inbox], Side]", encoded: str
) -> None:
    harness = Harness.over(pipeline, buckets=(2, 4), side=side)
    harness.tell(submit("a"), submit("b"))
    harness.turn_until(lambda: len(harness.said_of(StepStats)) == 1)
    harness.tell(submit("c"), submit("d"))
    harness.turn_until(lambda: len(harness.said_of(StepStats)) == 3)
    assert "".join(each.request_id for each in harness.said_of(Encoded)) == encoded
    harness.turn_until(lambda: len(harness.answers) == 4)
    assert [stats.rows for stats in harness.said_of(StepStats)] == [4] * 8
    for name in "abcd":
        assert_same(harness.pictures(name), made_alone(pipeline, submit(name)))


def test_what_is_due_first_is_stepped_first_and_what_is_put_aside_comes_out_the_same(
    pipeline: Pipeline,
) -> None:
    long = submit("long", replace(PARAMETERS, n=2, num_inference_steps=20))
    short = submit("short")
    harness = Harness.over(pipeline, buckets=(2, 4))
    harness.tell(replace(long, due=2.0))
    harness.turn_until(lambda: len(harness.said_of(StepStats)) == 3)
    harness.tell(replace(short, due=1.0))
    harness.turn_until(lambda: len(harness.answers) == 2)
    assert list(harness.answers) == ["short", "long"]
    assert {stats.rows for stats in harness.said_of(StepStats)} == {2, 4}
    for request in (long, short):
        assert_same(harness.pictures(request.request_id), made_alone(pipeline, request))


def test_a_solver_table_is_built_between_the_steps_of_others(config: ModelConfig) -> None:
    """Which go on meanwhile: here each turn builds as little of it as can be."""
    pipeline = Hesitant.load(config)
    long = submit("long", replace(PARAMETERS, num_inference_steps=100))
    needs = submit("needs", replace(PARAMETERS, scheduler=Scheduler.LMS, num_inference_steps=7))
    harness = Harness.over(pipeline)
    harness.tell(long)
    harness.turn_until(lambda: bool(harness.said_of(StepStats)))
    harness.tell(needs)
    harness.turn_until(lambda: "needs" in harness.answers)
    assert "long" not in harness.answers
    encoded = harness.said.index(
        next(m for m in harness.said_of(Encoded) if m.request_id == "needs")
    )
    before = [m for m in harness.said[:encoded] if isinstance(m, StepStats)]
    assert len(before) > 5
    assert_same(harness.pictures("needs"), made_alone(pipeline, needs))


class Hesitant(Pipeline):
    """The real pipeline, to which every time is up after one piece of work."""

    def build_table(self, parameters: Parameters, seconds: float) -> bool:
        return super().build_table(parameters, min(seconds, 1e-6))


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

    @classmethod
    def of(cls, config: ModelConfig) -> "Queueing":
        queueing = cls.load(config)
        queueing.log = []
        queueing.model = replace(queueing.model, device="cuda:0")
        return queueing

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        step = super().step(samples, bucket)
        number = sum(entry.startswith("submit") for entry in self.log)
        self.log.append(f"submit {number}")
        return QueuedStep(step.rows, step.bucket, log=self.log, number=number)


def test_at_most_one_step_is_queued_behind_the_one_under_way(
    config: ModelConfig, pipeline: Pipeline
) -> None:
    queueing = Queueing.of(config)
    pictures = made_alone(queueing, submit("queued"))
    assert queueing.log == [
        "submit 0",
        *("submit 1", "wait 0"),
        *("submit 2", "wait 1"),
        *("submit 3", "wait 2"),
        "wait 3",
    ]
    assert_same(pictures, made_alone(pipeline, submit("queued")))


def test_a_request_said_to_be_dropped_is_not_on_the_device_any_more(config: ModelConfig) -> None:
    queueing = Queueing.of(config)
    harness = Harness.over(queueing)
    harness.tell(submit("gone"))
    harness.turn_until(lambda: len(queueing.log) >= 3)
    assert queueing.log == ["submit 0", "submit 1", "wait 0"]
    harness.tell(Cancel("gone"), submit("next"))
    harness.turn_until(lambda: bool(harness.said_of(Dropped)))
    assert queueing.log[3] == "wait 1"


# One request's error


OVERFLOWING = Condition((ConditionRow(((encoder_input(), 1.0),), 3e38), ConditionRow((), -3e38)))


@pytest.mark.parametrize(
    "condition",
    [
        Condition.guided(np.full((3, 32, 32), np.nan, np.float32), 3.0),
        OVERFLOWING,
        Condition.guided(np.zeros((3, 5, 5), np.float32), 3.0),
        Condition.guided(np.zeros((0,), np.float32), 3.0),
    ],
    ids=["not finite", "overflows on the way", "of another side", "not a picture"],
)
def test_a_bad_request_fails_alone(pipeline: Pipeline, condition: Condition) -> None:
    good = submit("good")
    harness = Harness.over(pipeline)
    answers = harness.answer_all(Submit("bad", PARAMETERS, condition), good)
    assert isinstance(answers["bad"], Failed)
    assert harness.said_of(Failed) == [answers["bad"]]
    assert_same(harness.pictures("good"), made_alone(pipeline, good))


def test_a_request_that_fails_by_several_pictures_is_answered_once(pipeline: Pipeline) -> None:
    harness = Harness.over(pipeline)
    harness.answer_all(Submit("bad", replace(PARAMETERS, n=3), OVERFLOWING), submit("good"))
    assert len(harness.said_of(Failed)) == 1


def test_a_request_that_starts_from_a_picture_shares_steps_with_others(
    pipeline: Pipeline,
) -> None:
    picture = np.full((PARAMETERS.height, PARAMETERS.width, 3), 200, np.uint8)
    parameters = replace(PARAMETERS, strength=0.5)
    condition = Condition.of(parameters, [encoder_input()], start=picture)
    started = Submit("started", parameters, condition)
    harness = Harness.over(pipeline)
    answers = harness.answer_all(started, submit("plain"))
    assert [done.steps for done in answers.values() if isinstance(done, Done)] == [2, 4]
    [encoded] = [m for m in harness.said_of(Encoded) if m.request_id == "started"]
    assert encoded.latents_seconds > 0
    assert_same(harness.pictures("started"), made_alone(pipeline, started))
    assert_same(harness.pictures("plain"), made_alone(pipeline, submit("plain")))


def test_a_request_whose_rows_are_not_those_of_its_parameters_fails_and_the_log_says_why(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness.over(pipeline)
    one_row = Condition.guided(encoder_input(), 1.0)
    answers = harness.answer_all(Submit("odd", PARAMETERS, one_row), submit("good"))
    assert answers["odd"] == Failed("odd", NOT_ENCODED)
    assert harness.said_of(Encoded) == [
        m for m in harness.said_of(Encoded) if m.request_id == "good"
    ]
    assert "(calls, rows) ((4, 1),), where its parameters mean ((4, 2),)" in caplog.text
    assert_same(harness.pictures("good"), made_alone(pipeline, submit("good")))


def test_a_request_whose_calls_are_not_those_of_its_parameters_fails(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    class Longer(Pipeline):
        def start(
            self,
            rows: Sequence[Row],
            parameters: object,
            index: int,
            begins_from: Posterior | None = None,
        ) -> Sample:
            longer = replace(PARAMETERS, num_inference_steps=9)
            return super().start(rows, longer, index, begins_from)

    answers = Harness.over(Longer.load(config)).answer_all(submit("odd"))
    assert answers["odd"] == Failed("odd", NOT_ENCODED)
    assert "(calls, rows) ((9, 2),), where its parameters mean ((4, 2),)" in caplog.text
