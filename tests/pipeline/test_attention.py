"""The kernel of self-attention, chosen by measurement on a pretended device."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.parameters import ModelConfig
from app.pipeline import Pipeline, attention
from app.pipeline.attention import OWN_CHOICE, Attend, in_blocks
from tests.support.mixed import run_mixed
from tests.support.pretended_cuda import pretended_cuda


def right(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(queries, keys, values)


def wrong(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return right(queries, keys, values) * 1.05


def missing(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    raise RuntimeError("No available kernel.")


class Bench:
    """Kernels that a test names, with the seconds that they are to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.timed: list[str] = []
        self.used: set[tuple[str, int]] = set()
        self._seconds = seconds
        kinds = {"wrong": wrong, "missing": missing}
        kernels = {name: self._noting(name, kinds.get(name, right)) for name in seconds}
        monkeypatch.setattr(attention, "KERNELS", {OWN_CHOICE: right, **kernels})
        monkeypatch.setattr(attention, "stopwatch", self._measure)

    def _noting(self, name: str, kernel: Attend) -> Attend:
        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.used.add((name, queries.shape[2]))
            return kernel(queries, keys, values)

        return attend

    def _measure(self, call: Callable[[], object]) -> float:
        self.used.clear()
        call()
        [name] = {name for name, _ in self.used} or {OWN_CHOICE}
        self.timed.append(name)
        return self._seconds.get(name, 2e-3)


@pytest.mark.parametrize(
    "shape",
    [(2, 4, 36, 30), (1, 1, 1, 8), (3, 8, 400, 40), (1, 2, 2000, 16)],
    ids=["some heads together", "one position", "not all heads together", "queries apart"],
)
@torch.inference_mode()
def test_attention_in_blocks_is_as_near_to_what_is_exact_as_its_type_can_be(
    shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SCORES_OF_THREAD", 10**6 // torch.get_num_threads())
    rows, heads, positions, channels = shape
    side_by_side = torch.randn(rows, positions, 3, heads, channels).bfloat16()
    inputs = side_by_side.transpose(1, 3).unbind(2)
    exact = right(*(each.float() for each in inputs))
    found = in_blocks(*inputs)
    assert found.shape == exact.shape
    assert float((found.float() - exact).norm() / exact.norm()) < 0.01


def test_a_compiler_sees_one_product_of_attention_and_no_blocks() -> None:
    explained = torch._dynamo.explain(attention.SelfAttention(4))(
        torch.randn(2, 36, 3 * 4 * 8).bfloat16()
    )
    [graph] = explained.graphs
    assert explained.graph_break_count == 0
    assert "scaled_dot_product_attention" in graph.code
    assert "bmm" not in graph.code


@pytest.mark.parametrize("positions", [64, 400])
@torch.inference_mode()
def test_attention_in_blocks_does_not_hang_on_the_place_in_a_bucket(positions: int) -> None:
    attend = attention.SelfAttention(8)
    row, others = (torch.randn(n, positions, 3 * 8 * 40).bfloat16() for n in (1, 4))
    made = []
    for place in range(4):
        bucket = others.clone()
        bucket[place] = row[0]
        made.append(attend(bucket)[place])
    assert all(torch.equal(each, made[0]) for each in made)


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Neither of the test before nor for the next one."""
    attention.fastest.cache_clear()
    yield
    attention.fastest.cache_clear()


@pytest.fixture(scope="module")
def on_cpu(tiny_folder: Path) -> Pipeline:
    return Pipeline.load(config(tiny_folder, "cpu"))


@pytest.fixture
def on_device(tiny_folder: Path, on_cpu: Pipeline) -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patch, pretended_cuda():
        patch.setattr("app.pipeline.pipeline.Solvers", lambda *_: on_cpu._solvers)
        yield Pipeline.load(config(tiny_folder, "cuda"))


def config(folder: Path, device: str) -> ModelConfig:
    sizes = ((64, 64), (96, 64))
    return ModelConfig(str(folder), device=device, dtype="float32", sizes=sizes, cuda_graphs=False)


def test_the_fastest_is_taken_for_each_shape_and_pictures_stay_the_same(
    on_device: Pipeline,
    on_cpu: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(monkeypatch, slow=3e-3, fast=1e-3)
    with caplog.at_level("INFO"):
        on_device.prepare([2, 4], tune=True)
    positions = {16 * 16, 8 * 8, 24 * 16, 12 * 8}
    assert {shape[1] for shape in on_device.attention} == positions
    assert set(on_device.attention.values()) == {"fast"}
    assert len(bench.timed) == 3 * len(on_device.attention)
    assert "4 rows: fast (torch's own choice 2000 µs, slow 3000 µs, fast 1000 µs)" in caplog.text
    bench.used.clear()
    ours, expected = run_mixed(on_device, [2, 4]), run_mixed(on_cpu, [2, 4])
    assert bench.used == {("fast", number) for number in positions}
    for sample, other in zip(ours, expected, strict=True):
        # But for rounding: a CPU's weights are packed for other kernels.
        assert torch.allclose(sample.latents.cpu(), other.latents, rtol=1e-4, atol=1e-4)


def test_what_is_wrong_or_missing_is_left_out_and_said(
    on_device: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Bench(monkeypatch, wrong=1e-3, missing=1e-3)
    on_device.prepare([2], tune=True)
    assert set(on_device.attention.values()) == {OWN_CHOICE}
    assert "is left to others than wrong: it is off by 5.0%" in caplog.text
    assert "is left to others than missing: No available kernel." in caplog.text


def test_nothing_is_measured_where_bytes_are_promised(
    on_device: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, fast=1e-3)
    on_device.prepare([2], tune=False)
    assert (bench.timed, on_device.attention) == ([], {})


def test_a_device_that_is_lost_is_no_slow_kernel(
    on_device: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bench(monkeypatch, fast=1e-3)

    def lost(call: Callable[[], object]) -> float:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(attention, "stopwatch", lost)
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        on_device.prepare([2], tune=True)
