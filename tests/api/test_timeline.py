"""The stages of a request's time."""

from time import perf_counter
from typing import get_args

import pytest

from app.api.timeline import Timeline
from app.ipc.messages import Stage, StageName


def test_a_stage_lasts_from_its_beginning_until_now() -> None:
    timeline = Timeline()
    before = perf_counter()
    ended = timeline.passed("upload", timeline.accepted)
    assert before <= ended <= perf_counter()
    assert timeline.stages == [Stage("upload", timeline.accepted, ended)]


def test_stretches_of_one_stage_add_up_and_no_stage_is_left_out() -> None:
    timeline = Timeline(stages=[Stage("queue", 1, 2), Stage("encode", 2, 5), Stage("queue", 5, 9)])
    seconds = timeline.seconds()
    assert list(seconds) == list(get_args(StageName))
    assert seconds["queue"] == pytest.approx(5)
    assert sum(seconds.values()) == pytest.approx(8)
