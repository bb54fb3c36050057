"""What a worker does between its model and its first request."""

import pytest

from app.ipc.messages import Start
from app.pipeline import Pipeline
from app.worker.startup import buckets
from app.worker.warmup import FIXED_BUCKET, warm_up


def start(
    *, max_rows: int | None = None, fixed: bool = False, table: dict[int, float] | None = None
) -> Start:
    return Start(
        model="demo",
        revision=None,
        device="cpu",
        dtype="float32",
        attention_slicing="off",
        vae_slicing=False,
        safety_checker=True,
        sizes=(),
        max_rows=max_rows,
        fixed_bucket=fixed,
        step_seconds=table or {},
    )


def test_the_cap_is_measured(pipeline: Pipeline) -> None:
    knee = warm_up(pipeline, start()).knee
    assert knee.cap in knee.step_seconds
    assert min(knee.step_seconds.values()) > 0


def test_a_configured_cap_is_taken(pipeline: Pipeline) -> None:
    assert warm_up(pipeline, start(max_rows=6)).knee.cap == 6


def test_a_picture_is_timed(pipeline: Pipeline) -> None:
    warmth = warm_up(pipeline, start(max_rows=6))
    assert min(warmth.encode_seconds, warmth.decode_seconds) > 0
    assert set(warmth.knee.step_seconds) == {2, 6}


def test_an_earlier_worker_is_believed(pipeline: Pipeline) -> None:
    table = {2: 1.0, 4: 1.0, 8: 1.0, 16: 2.0}
    knee = warm_up(pipeline, start(table=table)).knee
    assert (knee.cap, knee.step_seconds) == (8, table)


def test_the_one_fixed_bucket_does_not_hang_on_a_measurement(pipeline: Pipeline) -> None:
    assert warm_up(pipeline, start(fixed=True)).knee.cap == FIXED_BUCKET
    assert warm_up(pipeline, start(fixed=True, max_rows=4)).knee.cap == 4


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
