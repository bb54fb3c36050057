"""A worker's measurements between its model and its first request."""

import pytest

from app.pipeline import Pipeline
from app.worker.warmup import FIXED_BUCKET, buckets, warm_up
from tests.support.workers import start_message


def test_the_cap_is_measured(pipeline: Pipeline) -> None:
    found = warm_up(pipeline, start_message(max_rows=None))
    assert found.buckets[-1] in found.step_seconds
    assert min(found.step_seconds.values()) > 0


def test_a_configured_cap_is_taken(pipeline: Pipeline) -> None:
    assert warm_up(pipeline, start_message(max_rows=6)).buckets[-1] == 6


def test_a_picture_is_timed(pipeline: Pipeline) -> None:
    found = warm_up(pipeline, start_message(max_rows=6))
    assert min(found.encode_seconds, found.decode_seconds) > 0
    assert set(found.step_seconds) == {2, 6}


def test_an_earlier_workers_times_are_not_measured_again(pipeline: Pipeline) -> None:
    table = {2: 1.0, 4: 1.0, 8: 1.0, 16: 2.0}
    for max_rows, cap in ((None, 8), (6, 6)):
        found = warm_up(pipeline, start_message(max_rows=max_rows, step_seconds=table))
        assert (found.buckets[-1], found.step_seconds) == (cap, table)


def test_the_one_fixed_bucket_does_not_hang_on_a_measurement(pipeline: Pipeline) -> None:
    for max_rows, cap in ((None, FIXED_BUCKET), (4, 4)):
        start = start_message(max_rows=max_rows, fixed_bucket=True)
        assert warm_up(pipeline, start).buckets[-1] == cap


def test_with_one_fixed_bucket_pictures_are_decoded_one_by_one(pipeline: Pipeline) -> None:
    ready = warm_up(pipeline, start_message(fixed_bucket=True))
    assert (ready.buckets, ready.decoded_at_once) == ((4,), 1)


@pytest.mark.parametrize(
    ("device", "fixed", "expected"),
    [
        ("cpu", False, [1, 2, 3, 4, 5, 6]),
        ("cuda:0", False, [1, 2, 4, 6]),
        ("cpu", True, [6]),
    ],
)
def test_buckets_up_to_the_cap(device: str, fixed: bool, expected: list[int]) -> None:
    assert buckets(6, device, fixed=fixed) == expected
