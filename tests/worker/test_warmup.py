"""A worker's measurements between its model and its first request."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.errors import CheckpointError, DeviceUnavailable
from app.ipc.messages import Measured
from app.parameters import ModelConfig, Scheduler
from app.pipeline import Pipeline
from app.pipeline.previews import Previewer
from app.scheduling.row_cap import CapReason
from app.worker.warmup import FIXED_BUCKET, buckets, warm_up
from tests.support.checkpoints import configure, enlarge, make_checkpoint
from tests.support.workers import Harness, start_message, submit

LAST_WEIGHTS = {
    "unet": "conv_out.weight",
    "vae": "decoder.conv_out.weight",
    "image_encoder": "visual_projection.weight",
}


def test_the_cap_is_measured(pipeline: Pipeline) -> None:
    found = warm_up(pipeline, start_message(max_rows=None))
    assert found.measured.row_cap in found.measured.step_seconds
    assert min(found.measured.step_seconds.values()) > 0
    # What steps take may raise it later.
    assert found.buckets == tuple(range(1, max(found.measured.step_seconds) + 1))


def test_a_configured_cap_is_taken(pipeline: Pipeline) -> None:
    assert warm_up(pipeline, start_message(max_rows=6)).buckets[-1] == 6


def test_a_picture_is_timed(pipeline: Pipeline) -> None:
    found = warm_up(pipeline, start_message(max_rows=6))
    assert min(found.encode_seconds, found.decode_seconds) > 0
    assert set(found.measured.step_seconds) == {2, 6}


def test_an_earlier_workers_times_are_not_measured_again(pipeline: Pipeline) -> None:
    found = warm_up(pipeline, start_message(max_rows=None, earlier=EARLIER))
    assert found.measured == EARLIER
    assert found.buckets[-1] == 16


def test_previews_are_fitted_before_the_first_request(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    class Counted(Previewer):
        def __init__(self, vae: object) -> None:
            fitted.append(vae)
            super().__init__(vae)

    monkeypatch.setattr("app.pipeline.pipeline.Previewer", Counted)
    pipeline = Pipeline.load(config)
    warm_up(pipeline, start_message())
    assert not fitted
    warm_up(pipeline, start_message(previews=True))
    Harness.over(pipeline).answer_all(replace(submit("a"), previews=True))
    assert len(fitted) == 1


def test_the_one_fixed_bucket_does_not_hang_on_a_measurement(pipeline: Pipeline) -> None:
    for max_rows, cap in ((None, FIXED_BUCKET), (4, 4)):
        start = start_message(max_rows=max_rows, fixed_bucket=True)
        assert warm_up(pipeline, start).buckets[-1] == cap


def test_with_one_fixed_bucket_pictures_are_decoded_one_by_one(pipeline: Pipeline) -> None:
    ready = warm_up(pipeline, start_message(fixed_bucket=True))
    assert (ready.buckets, ready.at_once) == ((4,), 1)


EARLIER = Measured({2: 1.0, 4: 1.0, 8: 1.0, 16: 2.0}, 8, CapReason.THROUGHPUT, threads=3)


@pytest.mark.parametrize("earlier", [None, EARLIER], ids=["first", "restarted"])
@pytest.mark.parametrize("fixed", [False, True])
def test_every_bucket_is_prepared_at_every_start_on_a_gpu(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, earlier: Measured | None, fixed: bool
) -> None:
    prepared: list[tuple[tuple[int, ...], bool]] = []

    def prepare(buckets: Sequence[int], *, tune: bool) -> None:
        prepared.append((tuple(buckets), tune))

    monkeypatch.setattr(pipeline, "prepare", prepare)
    monkeypatch.setattr(pipeline, "model", replace(pipeline.model, device="cuda:0"))
    ready = warm_up(pipeline, start_message(max_rows=8, fixed_bucket=fixed, earlier=earlier))
    assert prepared == [(ready.buckets, not fixed)]


def test_a_gpu_is_measured_with_up_to_32_rows_and_prepared_before(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []
    monkeypatch.setattr(pipeline, "prepare", lambda buckets, **_: prepared.extend(buckets))
    monkeypatch.setattr(pipeline, "model", replace(pipeline.model, device="cuda:0"))
    ready = warm_up(pipeline, start_message(max_rows=None))
    assert prepared == [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32]
    assert set(ready.measured.step_seconds) <= {2, 4, 8, 16, 32}
    assert ready.buckets[-1] == ready.measured.row_cap


@pytest.mark.parametrize(
    ("device", "fixed", "expected"),
    [
        ("cpu", False, [1, 2, 3, 4, 5, 6, 7]),
        ("cuda:0", False, [1, 2, 3, 4, 6, 7]),
        ("cuda:0", True, [7]),
        ("cpu", True, [7]),
    ],
)
def test_buckets_up_to_the_cap(device: str, fixed: bool, expected: list[int]) -> None:
    assert buckets(7, device, fixed=fixed) == expected


def test_a_gpu_has_four_buckets_to_each_doubling() -> None:
    up_to_32 = [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32]
    assert buckets(32, "cuda:0", fixed=False) == up_to_32
    assert buckets(90, "cuda:0", fixed=False) == [*up_to_32, 40, 48, 56, 64, 80, 90]


def load(folder: Path, dtype: str) -> Pipeline:
    return Pipeline.load(ModelConfig(str(folder), device="cpu", dtype=dtype))


@pytest.mark.parametrize("part", LAST_WEIGHTS)
def test_a_part_whose_numbers_leave_float16_is_refused_with_a_type_that_holds_them(
    part: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "loud")
    enlarge(folder, part, LAST_WEIGHTS[part], 5e4)
    with pytest.raises(CheckpointError) as refusal:
        warm_up(load(folder, "float16"), start_message())
    assert f"the {part} makes numbers" in refusal.value.message
    assert "not finite in float16: VARIATIONS_DTYPE=float32, or bfloat16" in refusal.value.message
    assert warm_up(load(folder, "float32"), start_message()).model.dtype == "float32"


def test_a_unet_whose_numbers_leave_bfloat16_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "loud")
    enlarge(folder, "unet", LAST_WEIGHTS["unet"], 3e38)
    with pytest.raises(CheckpointError, match=r"unet .* in bfloat16: VARIATIONS_DTYPE=float32"):
        warm_up(load(folder, "bfloat16"), start_message())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_numbers_that_leave_float32_mean_a_broken_checkpoint(
    part: str, dtype: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "broken")
    enlarge(folder, part, LAST_WEIGHTS[part], 3e38)
    with pytest.raises(CheckpointError, match=f"{part} .* in float32: .* itself is broken"):
        warm_up(load(folder, dtype), start_message())


def test_a_checker_that_judges_nothing_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "broken")
    enlarge(folder, "safety_checker", "visual_projection.weight", 3e38)
    with pytest.raises(CheckpointError, match=r"safety_checker .* in float32"):
        warm_up(load(folder, "float32"), start_message())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_cannot_be_called_is_refused(dtype: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "other")
    configure(folder, "unet", class_embed_type="identity")
    with pytest.raises(CheckpointError, match=f"cannot be made in {dtype}: ValueError: class_lab"):
        warm_up(load(folder, dtype), start_message())


def test_a_device_that_does_not_hold_a_picture_now_may_hold_it_later(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(pipeline, "step", full)
    with pytest.raises(DeviceUnavailable, match=r"memory does not hold .* 2 GiB"):
        warm_up(pipeline, start_message())


def test_it_is_made_by_a_solver_that_the_checkpoint_allows(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    configure(folder, "scheduler", steps_offset=5000)
    model = warm_up(load(folder, "float32"), start_message()).model
    assert Scheduler.DDIM not in model.schedulers
    assert model.scheduler == Scheduler.EULER
