"""Solvers as tables."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
from torch import Tensor

from app.errors import CheckpointError
from app.parameters import Fit, Parameters, Scheduler
from app.pipeline.solver import own_scheduler, solver_table

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
# diffusers casts to float32 inside these; the others compute in float64.
IN_FLOAT32 = {Scheduler.DPMSOLVER, Scheduler.DPMSOLVER_KARRAS, Scheduler.UNIPC}


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 100])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_every_solver_is_a_recurrence_of_few_terms(scheduler: Scheduler, steps: int) -> None:
    table = solver_table(scheduler, steps, CONFIG)
    assert table.residual < (1e-6 if scheduler in IN_FLOAT32 else 1e-13)
    assert table.coefficients.shape == (table.calls, 7)
    assert np.abs(table.coefficients).max() < 16
    assert np.isfinite(table.timesteps).all()


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_a_table_calls_the_unet_as_often_as_the_parameters_say(
    scheduler: Scheduler, steps: int
) -> None:
    parameters = Parameters(1, 3.0, steps, scheduler, 0, 64, 64, Fit.SQUASH)
    assert parameters.calls == solver_table(scheduler, steps, CONFIG).calls


def test_some_solvers_call_the_unet_more_often_than_their_steps_say() -> None:
    calls = {s: solver_table(s, 10, CONFIG).calls for s in Scheduler}
    assert calls.pop(Scheduler.PNDM) == 11
    assert calls.pop(Scheduler.HEUN) == calls.pop(Scheduler.KDPM2) == 19
    assert set(calls.values()) == {10}


def test_timesteps_may_be_fractional() -> None:
    timesteps = solver_table(Scheduler.KDPM2, 4, CONFIG).timesteps
    assert (timesteps % 1 != 0).any()


def test_solvers_of_sigmas_start_from_louder_noise_and_quieten_their_input() -> None:
    table = solver_table(Scheduler.EULER, 4, CONFIG)
    assert table.noise_scale == pytest.approx(14.6146, abs=1e-3)
    assert table.input_scales[0] == pytest.approx(1 / 14.6146, rel=0.01)
    assert (np.diff(table.input_scales) > 0).all()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_prediction_type_of_the_config_is_honoured(prediction: str) -> None:
    plain = solver_table(Scheduler.DDIM, 5, CONFIG)
    other = solver_table(Scheduler.DDIM, 5, {**CONFIG, "prediction_type": prediction})
    assert np.abs(plain.coefficients - other.coefficients).max() > 0.1


@pytest.mark.parametrize("scheduler", Scheduler)
def test_clipping_and_thresholding_are_ignored_because_latents_are_no_pictures(
    scheduler: Scheduler,
) -> None:
    plain = solver_table(scheduler, 5, CONFIG)
    other = solver_table(scheduler, 5, {**CONFIG, "clip_sample": True, "thresholding": True})
    assert np.array_equal(plain.coefficients, other.coefficients)


def test_what_is_no_recurrence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def crooked(_: Any, output: Tensor, timestep: int, sample: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=sample**2 + output.flip(1))

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", crooked)
    with pytest.raises(CheckpointError, match="no linear recurrence"):
        solver_table(Scheduler.DDIM, 9, CONFIG)


def test_a_config_that_the_class_cannot_take_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not suit ddim with 5 steps"):
        solver_table(Scheduler.DDIM, 5, {**CONFIG, "beta_schedule": "crooked"})


@pytest.mark.parametrize(
    ("config", "scheduler"),
    [
        ({"_class_name": "DDIMScheduler"}, Scheduler.DDIM),
        ({"_class_name": "DPMSolverMultistepScheduler"}, Scheduler.DPMSOLVER),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
            Scheduler.DPMSOLVER_KARRAS,
        ),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, Scheduler.PNDM),
    ],
)
def test_the_checkpoint_names_its_solver(config: dict[str, object], scheduler: Scheduler) -> None:
    assert own_scheduler(config) == scheduler
