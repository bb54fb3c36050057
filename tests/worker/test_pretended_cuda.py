"""The real worker on a pretended CUDA device: no device is mixed up, and the host seldom waits."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ipc.messages import DecodeStats, FromWorker, Measured, RanOut, Ready, StepStats
from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.worker.warmup import warm_up
from tests.support.checkpoints import SMALL, WIDE
from tests.support.pretended_cuda import CUDA, Event, Graph, PretendedCuda, pretended_cuda
from tests.support.workers import (
    MIXED,
    PARAMETERS,
    Harness,
    Posting,
    assert_same,
    start_message,
    submit,
)

BUCKETS = (1, 2, 3, 4)

REQUESTS = [
    *(submit(name, parameters) for name, parameters in MIXED.items()),
    submit("wide", replace(PARAMETERS, width=WIDE[0], height=WIDE[1], seed=3)),
]


def serve(pipeline: Pipeline, buckets: Sequence[int] = BUCKETS) -> Harness:
    """The requests of all kinds, one of which joins each second turn."""
    harness = Harness.over(pipeline, buckets, side=Posting)
    for request in REQUESTS:
        harness.tell(request)
        harness.worker.turn()
        harness.worker.turn()
    harness.turn_until(lambda: len(harness.answers) == len(REQUESTS))
    return harness


@dataclass(frozen=True)
class Served:
    """What came of serving the requests on the pretended device, and what was waited for."""

    device: PretendedCuda
    ready: Ready
    harness: Harness
    waits: Counter[str]


Load = Callable[..., Pipeline]
"""Loads a pipeline onto whatever device there is, with some options of :class:`ModelConfig`."""


@pytest.fixture(scope="module")
def load(tiny_checkpoint: Path, pipeline: Pipeline) -> Iterator[Load]:
    def one(**options: Any) -> Pipeline:
        config = ModelConfig(str(tiny_checkpoint), dtype="float32", sizes=(SMALL, WIDE), **options)
        return Pipeline.load(config)

    # Solvers are proven on the CPU wherever the pipeline is, in a hundred thousand operations.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.pipeline.pipeline.Solvers", lambda *_: pipeline._solvers)
        yield one


@pytest.fixture(scope="module")
def served(load: Load) -> Served:
    """As after a restart: nothing is measured, and every bucket is prepared all the same."""
    with pretended_cuda() as device:
        pipeline = load()
        measured = Measured({2: 0.01, BUCKETS[-1]: 0.02}, row_cap=BUCKETS[-1])
        ready = warm_up(pipeline, start_message(max_rows=None, earlier=measured))
        for graph in device.graphs:
            graph.plays = 0
        device.waits.clear()
        return Served(device, ready, serve(pipeline), device.waits)


def test_auto_is_the_device_and_pictures_are_those_of_the_cpu(
    served: Served, pipeline: Pipeline
) -> None:
    assert torch.device(served.ready.model.device).type == "cuda"
    assert served.ready.buckets == BUCKETS
    expected = serve(pipeline)
    for request in REQUESTS:
        name = request.request_id
        assert_same(served.harness.pictures(name), expected.pictures(name))


def test_the_host_waits_for_no_step_and_once_for_what_it_must_see(served: Served) -> None:
    steps = len(served.harness.said_of(StepStats))
    decodes = len(served.harness.said_of(DecodeStats))
    assert served.waits == {
        "pipeline.encode": len(REQUESTS),
        "samples.wait": steps,  # the loop, once the next step is queued
        "decoding._decoded": decodes,
        "safety._fetch_embeddings": decodes,
    }


def test_every_bucket_of_every_size_is_a_graph_that_its_steps_play(served: Served) -> None:
    latents = {SMALL: 1, WIDE: 2}
    shapes = [(bucket, size) for bucket in BUCKETS for size in latents]
    shapes.sort(key=lambda shape: shape[0] * latents[shape[1]], reverse=True)
    steps = Counter((stats.bucket, stats.size) for stats in served.harness.said_of(StepStats))
    assert len(served.device.graphs) == len(shapes)
    assert sum(graph.plays for graph in served.device.graphs) == steps.total()
    assert len(steps) >= 3
    for shape, graph in zip(shapes, served.device.graphs, strict=True):
        same_number = [s for s in shapes if s[0] * latents[s[1]] == shape[0] * latents[shape[1]]]
        if len(same_number) == 1:
            assert graph.plays == steps[shape]


@pytest.fixture
def device() -> Iterator[PretendedCuda]:
    with pretended_cuda() as device:
        yield device


def said(harness: Harness, kind: type[FromWorker]) -> int:
    return len(harness.said_of(kind))


@pytest.mark.parametrize("failing", ["graph", "event"])
def test_a_shortage_in_a_step_changes_no_picture_and_leaves_graphs_usable(
    failing: str,
    served: Served,
    device: PretendedCuda,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]

    def stumbling(right: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if once and sum(graph.plays for graph in device.graphs) >= 3:
                raise once.pop()
            right(*args)

        return call

    kind, verb = (Graph, "replay") if failing == "graph" else (Event, "record")
    monkeypatch.setattr(kind, verb, stumbling(getattr(kind, verb)))
    pipeline = load()
    pipeline.prepare([4], tune=True)
    harness = serve(pipeline, [4])
    assert not once
    assert said(harness, RanOut) == 1
    assert device.emptied == 1
    for request in REQUESTS:
        name = request.request_id
        assert_same(harness.pictures(name), served.harness.pictures(name))


def test_without_graphs_steps_run_eagerly_and_are_run_once_beforehand(
    device: PretendedCuda, served: Served, load: Load
) -> None:
    pipeline = load(cuda_graphs=False)
    pipeline.prepare([4], tune=True)
    harness = serve(pipeline, [4])
    assert device.graphs == []
    for request in REQUESTS:
        name = request.request_id
        assert_same(harness.pictures(name), served.harness.pictures(name))


# The pretended device itself


def test_tensors_of_both_devices_do_not_mix(device: PretendedCuda) -> None:
    ours, hosts = torch.ones(3, device="cuda"), torch.ones(3)
    assert ours.device == CUDA
    mixing: list[Callable[[], object]] = [
        lambda: ours + hosts,
        lambda: torch.stack([hosts, ours]),
        lambda: hosts[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda: torch.nn.functional.linear(ours, torch.ones(2, 3)),
    ]
    for mix in mixing:
        with pytest.raises(RuntimeError, match="on the same device"):
            mix()
    assert (ours + 1).device == (ours + torch.tensor(1.0)).device == CUDA
    with pytest.raises(TypeError, match="numpy"):
        ours.numpy()
    assert device.waits == {}


def test_what_the_host_waits_for_is_counted(device: PretendedCuda) -> None:
    ours = torch.ones(3, device="cuda")
    waiting: list[Callable[[], object]] = [
        ours.cpu,
        ours.tolist,
        lambda: ours.sum().item(),
        lambda: bool(ours.sum() > 2),
        lambda: ours[ours > 2],
        lambda: ours[torch.tensor([0])],
        lambda: torch.ones(3).to("cuda"),
        lambda: torch.ones(3).to("cuda", non_blocking=True),
        lambda: torch.ones(3).copy_(ours),
    ]
    for wait in waiting:
        before = device.waits.total()
        wait()
        assert device.waits.total() == before + 1
    before = device.waits.total()
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert ours[torch.zeros(2, dtype=torch.long).pin_memory().to(CUDA, non_blocking=True)].sum()
    assert device.waits.total() == before + 1  # for the truth of the sum


def test_a_copy_into_pinned_memory_arrives_with_its_event(device: PretendedCuda) -> None:
    ours = torch.full((3,), 7.0, device="cuda")
    copy = torch.zeros(3).pin_memory()
    copy.copy_(ours, non_blocking=True)
    assert device.waits == {}
    assert copy.tolist() == [0.0] * 3
    event = Event(blocking=True)
    event.record(None)
    event.synchronize()
    assert copy.tolist() == [7.0] * 3


def recording(graph: Graph, device: PretendedCuda) -> AbstractContextManager[None]:
    kind: Any = torch.cuda.graph
    context: AbstractContextManager[None] = kind(
        graph, pool=device.pool, capture_error_mode="thread_local"
    )
    return context


@torch.inference_mode()
def test_a_graph_plays_operations_on_the_same_memory_and_allows_nothing_else(
    device: PretendedCuda,
) -> None:
    given = torch.ones(2, 3, device="cuda")
    graph = Graph()
    ran = 0

    def work() -> torch.Tensor:
        nonlocal ran
        ran += 1
        halves = (given * 3).chunk(2)
        halves[0].add_(1)
        halves[1][:, 0] = 5.0
        return torch.cat(halves)

    with recording(graph, device):
        outcome = work()
    given.copy_(torch.full((2, 3), 2.0, device="cuda"))
    graph.replay()
    assert outcome.tolist() == [[7.0, 7.0, 7.0], [5.0, 6.0, 6.0]]
    assert ran == 1
    for forbidden in (given.cpu, given.sum().item, lambda: torch.ones(1).pin_memory().to(CUDA)):
        with recording(graph, device), pytest.raises(torch.AcceleratorError, match="capturing"):
            forbidden()
