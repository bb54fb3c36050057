"""More to look at than one picture: equal to diffusers' parts called one by one."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from app.parameters import Condition, Fit, Mix, Parameters, Scheduler
from app.pictures import Picture
from app.pictures.fit import at_size
from app.pipeline import Pipeline, Sample
from tests.support.pipelines import draw
from tests.support.reference import Reference

# diffusers hands tensors to NumPy in ways that NumPy 2 remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

PICTURES = [draw(1), draw(2), draw(3)]
THREE = (0.5, 0.2, 0.3)


def wanted(scheduler: Scheduler = Scheduler.DDIM, **others: Any) -> Parameters:
    fields = {"n": 1, "guidance_scale": 3.0, "num_inference_steps": 6, "seed": 7, **others}
    return Parameters(scheduler=scheduler, width=64, height=64, fit=Fit.SQUASH, **fields)


@dataclass
class Request:
    """A request that joins at step ``joins``, with as many of the pictures as it has weights."""

    parameters: Parameters
    joins: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        return PICTURES[: len(self.parameters.weight)]

    @property
    def origin(self) -> Picture | None:
        wanted = self.parameters
        return at_size(draw(1), wanted.size, wanted.fit) if wanted.strength else None

    @property
    def negative(self) -> Picture | None:
        return draw(9) if self.parameters.negative_image else None

    def start(self, pipeline: Pipeline) -> None:
        fit = self.parameters.fit
        negative = None if self.negative is None else pipeline.preprocessing(self.negative, fit)
        pixels = [pipeline.preprocessing(picture, fit) for picture in self.pictures]
        condition = Condition.of(self.parameters, pixels, negative, self.origin)
        rows = pipeline.condition(condition)
        begins_from = None if self.origin is None else pipeline.posterior(self.origin)
        self.samples = [
            pipeline.start(rows, self.parameters, index, begins_from)
            for index in range(self.parameters.n)
        ]

    def assert_equal(self, reference: Reference) -> None:
        wanted = self.parameters
        expected = reference.composed(self.pictures, wanted, self.negative, self.origin)
        latents = torch.stack([sample.latents.cpu() for sample in self.samples])
        assert (latents - expected).abs().max() < 1e-3 * expected.std()


def run(pipeline: Pipeline, *requests: Request, bucket: int | None = None) -> list[int]:
    """Step whoever is there until all are done; the rows of each step."""
    rows = []
    for step in range(100):
        for request in requests:
            if request.joins == step:
                request.start(pipeline)
        running = [s for request in requests for s in request.samples if s.steps_left]
        if running:
            rows.append(pipeline.step(running, bucket).rows)
    assert all(request.samples for request in requests)
    return rows


def test_the_plain_computation_is_the_pipelines(reference: Reference) -> None:
    """So that what the others are compared with is diffusers' own."""
    for parameters in (wanted(Scheduler.PNDM, n=2), wanted(guidance_scale=1.0)):
        composed = reference.composed([draw(1)], parameters)
        assert np.allclose(composed, reference.latents(draw(1), parameters), atol=1e-4)


@pytest.mark.parametrize("strength", [0.2, 0.67, 1.0])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_from_a_picture_every_solver_is_equal_to_diffusers_image_to_image(
    tiny: Pipeline, reference: Reference, scheduler: Scheduler, strength: float
) -> None:
    request = Request(wanted(scheduler, strength=strength, n=2))
    calls = len(run(tiny, request))
    assert calls == request.parameters.calls
    assert strength == 1.0 or calls < wanted(scheduler).calls
    assert request.origin is not None
    expected = reference.started_from(draw(1), request.origin, request.parameters)
    latents = torch.stack([sample.latents.cpu() for sample in request.samples])
    assert (latents - expected).abs().max() < 1e-3 * expected.std()
    request.assert_equal(reference)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(("mix", "plain"), [(Mix.EMBEDDING, 1), (Mix.ROWS, 3)])
def test_several_pictures_are_mixed_as_one_embedding_or_as_rows(
    tiny: Pipeline, reference: Reference, mix: Mix, plain: int, guidance_scale: float
) -> None:
    request = Request(wanted(weight=THREE, mix=mix, guidance_scale=guidance_scale, n=2))
    rows = run(tiny, request)
    assert set(rows) == {2 * (plain + (guidance_scale > 1))}
    request.assert_equal(reference)


def test_the_two_ways_of_mixing_differ(tiny: Pipeline) -> None:
    mixed, composed = Request(wanted(weight=THREE)), Request(wanted(weight=THREE, mix=Mix.ROWS))
    run(tiny, mixed, composed)
    assert not torch.allclose(mixed.samples[0].latents, composed.samples[0].latents, atol=1e-3)


def test_a_negative_picture_is_guided_away_from(tiny: Pipeline, reference: Reference) -> None:
    request = Request(wanted(negative_image=True))
    assert set(run(tiny, request)) == {2}
    request.assert_equal(reference)


@pytest.mark.parametrize("scheduler", [Scheduler.PNDM, Scheduler.HEUN, Scheduler.DPMSOLVER])
@pytest.mark.parametrize("part", [(0.0, 0.5), (0.4, 1.0), (0.3, 0.7)])
def test_guidance_on_part_of_the_steps_takes_fewer_rows(
    tiny: Pipeline, reference: Reference, scheduler: Scheduler, part: tuple[float, float]
) -> None:
    request = Request(wanted(scheduler, guidance_start=part[0], guidance_end=part[1]))
    rows = run(tiny, request)
    assert sum(rows) == request.parameters.row_steps < 2 * request.parameters.calls
    request.assert_equal(reference)


def test_all_of_them_share_steps_with_plain_requests(tiny: Pipeline, reference: Reference) -> None:
    part = {"guidance_start": 0.2, "guidance_end": 0.6}
    requests = [
        Request(wanted(Scheduler.PNDM, n=2)),
        Request(wanted(Scheduler.EULER, weight=THREE, mix=Mix.ROWS, n=2, **part)),
        Request(wanted(Scheduler.UNIPC, weight=THREE, negative_image=True, **part), joins=1),
        Request(wanted(Scheduler.HEUN, guidance_scale=1.0, num_inference_steps=3), joins=2),
        Request(
            wanted(Scheduler.LMS, weight=(0.3, 0.7), mix=Mix.ROWS, guidance_scale=0.5), joins=3
        ),
        Request(wanted(Scheduler.KDPM2, negative_image=True, guidance_scale=7.5), joins=4),
        Request(wanted(Scheduler.DEIS, strength=0.7, weight=THREE, mix=Mix.ROWS, **part), joins=2),
        Request(wanted(Scheduler.HEUN, strength=0.5, negative_image=True, n=2), joins=5),
    ]
    assert len(set(run(tiny, *requests, bucket=24))) >= 6
    for request in requests:
        request.assert_equal(reference)
