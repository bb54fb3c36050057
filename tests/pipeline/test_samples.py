"""Steps that samples share without noticing each other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from app.parameters import Fit, Parameters, Scheduler
from app.pipeline import Pipeline, Sample
from app.pipeline.samples import step as step_samples
from tests.support.requests import condition_for, encoder_input


@pytest.fixture
def start(tiny: Pipeline) -> Callable[..., Sample]:
    def one(
        seed: int = 1,
        scheduler: Scheduler = Scheduler.PNDM,
        guidance: float = 3.0,
        size: tuple[int, int] = (64, 64),
        steps: int = 4,
    ) -> Sample:
        parameters = Parameters(1, guidance, steps, scheduler, seed, *size, Fit.SQUASH)
        rows = tiny.condition(condition_for(parameters, encoder_input(seed)))
        return tiny.start(rows, parameters, 0)

    return one


Start = Callable[..., Sample]


def test_a_sample_counts_its_rows_and_steps(tiny: Pipeline, start: Start) -> None:
    sample = start(scheduler=Scheduler.PNDM, guidance=3.0, steps=4)
    assert (sample.rows, sample.steps, sample.steps_left, sample.size) == (2, 5, 5, (64, 64))
    assert sample.latents.shape == (4, 16, 16)
    assert sample.latents.dtype == torch.float32
    tiny.step([sample]).wait()
    assert (sample.steps, sample.steps_left) == (5, 4)
    assert start(guidance=1.0).rows == 1


def test_a_seed_is_a_cpu_generators(tiny: Pipeline, start: Start) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(9))
    assert torch.equal(start(seed=9).latents.cpu(), noise[0])


def test_samples_of_one_table_share_its_folded_timesteps(tiny: Pipeline, start: Start) -> None:
    # A number of steps that no other test has kept here: theirs may have had other threads.
    one, other = start(seed=1, steps=29), start(seed=2, guidance=1.0, steps=29)
    longer = start(steps=30)
    assert one.times is other.times
    assert (len(one.times), len(longer.times)) == (one.steps, longer.steps)
    for i in range(40):  # of other tables: what is kept is bounded
        start(scheduler=Scheduler.DDIM, steps=4 + i)
    again = start(steps=29)
    assert again.times is not one.times
    assert all(map(torch.equal, again.times, one.times))


def test_in_one_bucket_company_and_place_do_not_change_a_byte(tiny: Pipeline, start: Start) -> None:
    alone = start(seed=3)
    while alone.steps_left:
        tiny.step([alone], bucket=12)
    others = [Scheduler.HEUN, Scheduler.LMS, Scheduler.DDIM, Scheduler.UNIPC]
    for place in range(5):
        company = [start(i + 10, s, guidance=1.0 + i, steps=6) for i, s in enumerate(others)]
        among = start(seed=3)
        company.insert(place, among)
        while among.steps_left:
            tiny.step(company, bucket=12)
        assert torch.equal(among.latents, alone.latents)


def test_what_is_not_finite_stays_within_its_sample(tiny: Pipeline, start: Start) -> None:
    for guidance in (1.0, 3.0):
        healthy, alone, broken = start(seed=4), start(seed=4), start(guidance=guidance)
        with torch.inference_mode():
            broken.latents.fill_(float("nan"))
        tiny.step([broken, healthy], bucket=8)
        tiny.step([alone], bucket=8)
        assert broken.latents.isnan().all()
        assert torch.allclose(healthy.latents, alone.latents, atol=1e-5)


def test_samples_of_two_sizes_or_none_or_finished_are_refused(tiny: Pipeline, start: Start) -> None:
    with pytest.raises(ValueError, match="one size"):
        tiny.step([start(), start(size=(96, 64))])
    with pytest.raises(ValueError, match="one or more"):
        tiny.step([])
    done = start(scheduler=Scheduler.DDIM, steps=1)
    tiny.step([done])
    with pytest.raises(ValueError, match="steps left"):
        tiny.step([done])


def test_a_step_that_fails_changes_nobody_and_can_be_tried_again(
    tiny: Pipeline, device: str, start: Start
) -> None:
    samples = [start(seed=1), start(seed=2)]
    before = [sample.latents.clone() for sample in samples]

    def out_of_memory(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        step_samples(samples, out_of_memory, torch.device(device))
    assert [sample.steps_left for sample in samples] == [5, 5]
    for sample, latents in zip(samples, before, strict=True):
        assert torch.equal(sample.latents, latents)
        tiny.step([sample])


def test_an_event_that_cannot_be_made_steps_nobody_twice(
    tiny: Pipeline, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, undisturbed = [start(seed=1), start(seed=2)], [start(seed=1), start(seed=2)]
    tiny.step(undisturbed)

    def no_room(_: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("app.pipeline.samples.event_now", no_room)
        with pytest.raises(torch.AcceleratorError):
            tiny.step(samples)
    tiny.step(samples)
    for sample, expected in zip(samples, undisturbed, strict=True):
        assert sample.steps_left == expected.steps_left
        assert torch.equal(sample.latents, expected.latents)


def test_a_bucket_smaller_than_the_rows_is_as_large_as_they_are(
    tiny: Pipeline, start: Start
) -> None:
    step = tiny.step([start(), start()], bucket=1)
    assert (step.rows, step.bucket) == (4, 4)


def test_one_padded_step_reports_its_rows_and_bucket(tiny: Pipeline, start: Start) -> None:
    step = tiny.step([start(), start(guidance=1.0)], bucket=8)
    assert (step.rows, step.bucket) == (3, 8)


def test_a_step_builds_nothing_from_the_devices_numbers(
    tiny: Pipeline, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ``.item()``, ``.cpu()``, ``.numpy()`` or ``bool(tensor)``: each would wait for a GPU."""
    samples = [start(scheduler=s) for s in (Scheduler.PNDM, Scheduler.EULER)]

    def waits(*_: object, **__: object) -> None:
        raise AssertionError("a step waited for the device")

    for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, waits)
    tiny.step(samples)
