"""Previews of requests that wish them, from the worker's turns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.ipc.messages import Done, PictureDone, PreviewMade, StepStats
from app.parameters import Scheduler
from app.pipeline import Pipeline
from app.worker import previews
from tests.support.workers import PARAMETERS, Harness, assert_same, made_alone, submit

TWO = replace(PARAMETERS, n=2, scheduler=Scheduler.HEUN, num_inference_steps=3)
WISHED = replace(submit("wished", TWO), previews=True)


@pytest.mark.parametrize(("seconds", "times"), [(0.0, TWO.calls - 1), (1e6, 1)])
def test_pictures_are_shown_from_their_first_step_on_but_not_too_often(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    monkeypatch.setattr(previews, "SECONDS", seconds)
    harness = Harness.over(pipeline)
    harness.answer_all(WISHED, submit("neighbour", TWO))
    shown = [(one.request_id, one.index) for one in harness.said_of(PreviewMade)]
    assert shown == times * [("wished", 0), ("wished", 1)]
    assert {one.picture.shape for one in harness.said_of(PreviewMade)} == {(32, 32, 3)}
    kinds = [type(one) for one in harness.said]
    assert kinds.index(PreviewMade) < kinds.index(StepStats) < kinds.index(PictureDone)


def test_the_pictures_are_as_without(pipeline: Pipeline) -> None:
    assert_same(made_alone(pipeline, WISHED), made_alone(pipeline, submit("plain", TWO)))


def test_pictures_that_wait_for_their_first_step_have_nothing_to_show(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "SECONDS", 0.0)
    harness = Harness.over(pipeline, buckets=[TWO.rows])
    harness.answer_all(WISHED)
    assert all(np.ptp(one.picture) for one in harness.said_of(PreviewMade))
    assert len(harness.said_of(PictureDone)) == 2


def test_where_there_is_no_memory_for_them_the_pictures_come_all_the_same(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(pipeline, "preview", full)
    harness = Harness.over(pipeline)
    assert isinstance(harness.answer_all(WISHED)["wished"], Done)
    assert not harness.said_of(PreviewMade)
