"""Equal to diffusers' pipeline, up to rounding, alone and in company."""

import gc
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from app.parameters import Fit, ModelConfig, Parameters, Scheduler
from app.pictures import Picture
from app.pipeline import Decoded, Pipeline, Sample
from app.pipeline.known import DEMO_FOLDER, known
from tests.support.checkpoints import make_checkpoint
from tests.support.pipelines import condition_of, draw, start
from tests.support.reference import SCHEDULERS, Reference

# diffusers hands tensors to NumPy in ways that NumPy 2 remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def parameters(
    scheduler: Scheduler,
    *,
    n: int = 1,
    guidance: float = 3.0,
    steps: int = 5,
    seed: int = 7,
    size: tuple[int, int] = (64, 64),
) -> Parameters:
    return Parameters(n, guidance, steps, scheduler, seed, *size, Fit.SQUASH)


@dataclass
class Request:
    """A request of a mixed batch: joins at step ``joins``."""

    joins: int
    parameters: Parameters
    picture: Picture
    samples: list[Sample] = field(default_factory=list)


def assert_equal(
    pipeline: Pipeline,
    reference: Reference,
    picture: Picture,
    parameters: Parameters,
    samples: Sequence[Sample],
) -> None:
    expected = reference.latents(picture, parameters)
    assert_latents_equal(samples, expected)
    assert_pictures_equal(pipeline.decode(samples), *reference.pictures(expected))


def assert_latents_equal(samples: Sequence[Sample], expected: torch.Tensor) -> float:
    """The largest difference of latents, in units of their standard deviation."""
    latents = torch.stack([sample.latents.cpu() for sample in samples])
    off = float((latents - expected).abs().max() / expected.std())
    assert off < 1e-3
    return off


def assert_pictures_equal(
    decoded: Sequence[Decoded], pictures: Picture, flags: Sequence[bool]
) -> float:
    """The share of values that are equal to the last bit."""
    assert [d.flagged for d in decoded] == flags
    assert [d.error for d in decoded] == [None] * len(decoded)
    same = 1.0
    for ours, theirs in zip(decoded, pictures, strict=True):
        if ours.picture is not None:
            distance = np.abs(ours.picture.astype(int) - theirs.astype(int))
            assert (distance <= 1).mean() >= 0.999
            same = min(same, float((distance == 0).mean()))
    return same


def finish(pipeline: Pipeline, samples: Sequence[Sample]) -> None:
    while samples[0].steps_left:
        pipeline.step(samples)


def run_mixed(
    pipeline: Pipeline, requests: Sequence[Request], bucket: int | None = None
) -> list[int]:
    """Step whoever is there until all are done; the samples in each step."""
    sizes = []
    for step in range(1000):
        for request in requests:
            if request.joins == step:
                request.samples = start(pipeline, request.picture, request.parameters)
        running = [s for r in requests for s in r.samples if s.steps_left]
        if running:
            pipeline.step(running, bucket)
            sizes.append(len(running))
        elif all(request.samples for request in requests):
            break
    return sizes


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("guidance", [1.0, 3.0, 7.5])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_every_solver_is_equal_to_the_reference(
    tiny: Pipeline, reference: Reference, scheduler: Scheduler, guidance: float, n: int
) -> None:
    wanted = parameters(scheduler, n=n, guidance=guidance)
    samples = start(tiny, draw(1), wanted)
    finish(tiny, samples)
    assert_equal(tiny, reference, draw(1), wanted, samples)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_few_and_many_steps_are_equal_to_the_reference(
    tiny: Pipeline, reference: Reference, scheduler: Scheduler, steps: int
) -> None:
    wanted = parameters(scheduler, guidance=1.0, steps=steps)
    samples = start(tiny, draw(1), wanted)
    finish(tiny, samples)
    assert_equal(tiny, reference, draw(1), wanted, samples)


def test_another_size_is_equal_to_the_reference(tiny: Pipeline, reference: Reference) -> None:
    wanted = parameters(Scheduler.PNDM, n=2, size=(96, 64))
    samples = start(tiny, draw(2), wanted)
    finish(tiny, samples)
    assert_equal(tiny, reference, draw(2), wanted, samples)


def mixed() -> list[Request]:
    """All ten solvers; joining and leaving at different steps."""
    return [
        Request(0, parameters(Scheduler.PNDM, n=2, guidance=3.0, steps=9, seed=1), draw(1)),
        Request(0, parameters(Scheduler.DDIM, n=1, guidance=1.0, steps=4, seed=2), draw(2)),
        Request(2, parameters(Scheduler.EULER, n=3, guidance=7.5, steps=5, seed=3), draw(3)),
        Request(3, parameters(Scheduler.HEUN, n=1, guidance=2.0, steps=6, seed=4), draw(4)),
        Request(5, parameters(Scheduler.LMS, n=1, guidance=0.5, steps=8, seed=5), draw(5)),
        Request(5, parameters(Scheduler.UNIPC, n=2, guidance=5.0, steps=7, seed=6), draw(1)),
        Request(
            6, parameters(Scheduler.KDPM2, n=1, guidance=3.0, steps=3, seed=2**32 - 1), draw(6)
        ),
        Request(8, parameters(Scheduler.DEIS, n=1, guidance=4.0, steps=10, seed=8), draw(7)),
        Request(9, parameters(Scheduler.DPMSOLVER, n=1, guidance=3.0, steps=12, seed=9), draw(8)),
        Request(9, parameters(Scheduler.DPMSOLVER_KARRAS, n=1, steps=1, seed=10), draw(9)),
    ]


def test_a_mixed_batch_is_equal_to_the_reference(tiny: Pipeline, reference: Reference) -> None:
    requests = mixed()
    sizes = run_mixed(tiny, requests, bucket=24)
    assert len(set(sizes)) >= 4
    for request in requests:
        assert_equal(tiny, reference, request.picture, request.parameters, request.samples)


def test_once_tables_are_built_no_scheduler_is_stepped(
    tiny: Pipeline, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixed()
    for request in requests:
        start(tiny, request.picture, request.parameters)
    with monkeypatch.context() as patch:
        for kind, _ in SCHEDULERS.values():
            patch.setattr(kind, "step", _must_not_be_called)
        run_mixed(tiny, requests)
    for request in requests:
        assert_equal(tiny, reference, request.picture, request.parameters, request.samples)


def _must_not_be_called(*_: object, **__: object) -> None:
    raise AssertionError("a scheduler was stepped")


@pytest.fixture(scope="module")
def demo(device: str) -> Pipeline:
    return Pipeline.load(ModelConfig("demo", device=device, dtype="float32"))


@pytest.fixture(scope="module")
def demo_reference(device: str) -> Reference:
    return Reference(DEMO_FOLDER, device, antialias=known("demo", DEMO_FOLDER).antialias)


class TestBuiltInCheckpoint:
    """The same on trained weights."""

    @pytest.mark.parametrize("scheduler", Scheduler)
    def test_every_solver(
        self, demo: Pipeline, demo_reference: Reference, scheduler: Scheduler
    ) -> None:
        wanted = parameters(scheduler, n=2, steps=5, size=demo.model.sizes[0])
        samples = start(demo, draw(1), wanted)
        finish(demo, samples)
        assert_equal(demo, demo_reference, draw(1), wanted, samples)

    def test_mixed_batch(self, demo: Pipeline, demo_reference: Reference) -> None:
        size = demo.model.sizes[0]
        requests = [
            Request(0, parameters(Scheduler.PNDM, n=2, steps=5, size=size), draw(1)),
            Request(1, parameters(Scheduler.EULER, guidance=7.5, steps=4, size=size), draw(2)),
            Request(1, parameters(Scheduler.DDIM, guidance=1.0, steps=6, size=size), draw(3)),
            Request(2, parameters(Scheduler.HEUN, steps=3, size=size), draw(4)),
            Request(3, parameters(Scheduler.DPMSOLVER, n=2, steps=7, size=size), draw(5)),
            Request(4, parameters(Scheduler.UNIPC, guidance=2.0, steps=5, size=size), draw(6)),
        ]
        run_mixed(demo, requests)
        for request in requests:
            assert_equal(demo, demo_reference, request.picture, request.parameters, request.samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_in_float16_pictures_stay_within_two_levels_on_average(tiny_folder: Path) -> None:
    pipeline = Pipeline.load(ModelConfig(str(tiny_folder), device="cuda", dtype="float16"))
    reference = Reference(tiny_folder, "cuda")
    wanted = parameters(Scheduler.PNDM, n=4)
    expected, _ = reference.pictures(reference.latents(draw(1), wanted))
    made = pipeline.generate(condition_of(pipeline, draw(1), wanted), wanted)
    for ours, theirs in zip(made, expected, strict=True):
        assert ours.picture is not None
        assert np.abs(ours.picture.astype(int) - theirs.astype(int)).mean() < 2


@pytest.fixture(scope="module")
def full_size() -> Iterator[Path]:
    """Gone after the test: pytest would keep the 6 GB of its last three runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield make_checkpoint(Path(folder), kind="sd1", safetensors=False)


@pytest.mark.slow
@pytest.mark.usefixtures("all_threads")
@pytest.mark.parametrize("side", [64, 512])
def test_the_full_size_architecture_from_pickles(
    full_size: Path, device: str, side: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stable Diffusion 1 with random weights in the hub's layout: 10 GB; many minutes at 512×512.

    PNDM and DPM-Solver++ alone, then both and a third in one batch that they join one by one.
    """
    size = (side, side)
    wanted = [
        parameters(Scheduler.PNDM, steps=4, size=size, seed=1),
        parameters(Scheduler.DPMSOLVER, steps=4, size=size, seed=2),
        parameters(Scheduler.EULER, guidance=1.0, steps=2, size=size, seed=3),
    ]
    pipeline = Pipeline.load(
        ModelConfig(str(full_size), device=device, dtype="float32", sizes=(size,))
    )
    alone = [Request(0, each, draw(i)) for i, each in enumerate(wanted[:2])]
    for request in alone:
        run_mixed(pipeline, [request])
    mixed = [Request(i, each, draw(i)) for i, each in enumerate(wanted)]
    run_mixed(pipeline, mixed)
    decoded = [pipeline.decode(request.samples) for request in mixed]
    # Both at once would take twice the memory.
    del pipeline
    gc.collect()
    reference = Reference(full_size, device)
    for i, request in enumerate(mixed):
        expected = reference.latents(request.picture, request.parameters)
        together = assert_latents_equal(request.samples, expected)
        apart = assert_latents_equal(alone[i].samples, expected) if i < len(alone) else None
        same = assert_pictures_equal(decoded[i], *reference.pictures(expected))
        with capsys.disabled():
            print(f"\n{request.parameters.scheduler}: {apart=} {together=} {same=}")
