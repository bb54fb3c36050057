"""Solvers as tables."""

import logging
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
from torch import Tensor

from app.errors import CheckpointError, InvalidParameter
from app.parameters import Fit, Parameters, Scheduler
from app.pipeline import solver
from app.pipeline.solver import own_scheduler, solver_table
from app.pipeline.solvers import Solvers

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


@pytest.mark.parametrize("strength", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_a_table_can_begin_anywhere(scheduler: Scheduler, strength: float) -> None:
    wanted = Parameters(1, 3.0, 100, scheduler, 0, 64, 64, Fit.SQUASH, strength=strength)
    table = solver_table(scheduler, 100, CONFIG, wanted.begin)
    assert table.calls == wanted.calls
    assert table.residual < (1e-6 if scheduler in IN_FLOAT32 else 1e-13)
    assert table.picture_scale > 0
    whole = solver_table(scheduler, 100, CONFIG)
    assert whole.picture_scale == 0
    np.testing.assert_array_equal(table.timesteps, whole.timesteps[wanted.begin :])


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
        return SimpleNamespace(prev_sample=output.flip(1))

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", crooked)
    with pytest.raises(CheckpointError, match="no linear recurrence"):
        solver_table(Scheduler.DDIM, 9, CONFIG)


def test_what_only_basis_vectors_take_for_a_recurrence_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums that are never negative there, and often are between random numbers."""

    def folded(_: Any, output: Tensor, timestep: int, sample: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=(sample + output).abs())

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", folded)
    with pytest.raises(CheckpointError, match="random numbers come out of it otherwise"):
        solver_table(Scheduler.DDIM, 9, CONFIG)


@pytest.mark.parametrize("scheduler", [Scheduler.LMS, Scheduler.KDPM2])
@pytest.mark.parametrize("steps", [5, 20])
def test_the_quicker_classes_make_the_tables_of_diffusers_own(
    scheduler: Scheduler, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = solver_table(scheduler, steps, CONFIG)
    monkeypatch.setattr(solver, "_QUICKER", {})
    own = solver_table(scheduler, steps, CONFIG)
    np.testing.assert_allclose(quick.timesteps, own.timesteps, rtol=1e-6)
    assert np.abs(quick.coefficients - own.coefficients).max() < 1e-5


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
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, None),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, None),
        ({"_class_name": ["DDIMScheduler"]}, None),
        ({}, None),
    ],
)
def test_the_checkpoint_names_its_solver(
    config: dict[str, object], scheduler: Scheduler | None
) -> None:
    assert own_scheduler(config) == scheduler


def config_of(name: object, **changes: object) -> dict[str, Any]:
    return {"_class_name": name, **CONFIG, **changes}


def test_a_plain_config_offers_every_solver_and_its_own_by_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    solvers = Solvers(config_of("DEISMultistepScheduler"), 50)
    assert solvers.offered == tuple(Scheduler)
    assert solvers.default == Scheduler.DEIS
    assert Solvers(config_of("PNDMScheduler"), 50, Scheduler.HEUN).default == Scheduler.HEUN
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("config", "named", "default"),
    [
        (config_of("LCMScheduler"), "LCMScheduler", Scheduler.PNDM),
        (config_of("TCDScheduler", skip_prk_steps=None), "TCDScheduler", Scheduler.DDIM),
        (
            config_of("EulerAncestralDiscreteScheduler", skip_prk_steps=False),
            "EulerAncestralDiscreteScheduler",
            Scheduler.DDIM,
        ),
        (config_of("DDPMScheduler"), "DDPMScheduler", Scheduler.PNDM),
        (config_of("OurOwnScheduler"), "OurOwnScheduler", Scheduler.PNDM),
        (config_of("utils"), "utils", Scheduler.PNDM),
        (CONFIG, "not named", Scheduler.PNDM),
        (
            config_of("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
            "DPMSolverMultistepScheduler",
            Scheduler.PNDM,
        ),
        (config_of("PNDMScheduler", skip_prk_steps=False), "PNDMScheduler", Scheduler.DDIM),
        (
            config_of("LMSDiscreteScheduler", prediction_type="v_prediction"),
            "LMSDiscreteScheduler",
            Scheduler.PNDM,
        ),
    ],
)
def test_where_the_own_scheduler_cannot_be_the_default_another_is_and_the_log_names_both(
    config: dict[str, Any],
    named: str,
    default: Scheduler,
    caplog: pytest.LogCaptureFixture,
) -> None:
    solvers = Solvers(config, 50)
    assert solvers.default == default
    assert solvers.table(default, 50).calls > 0
    [warning] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert named in warning
    assert f"The default is {default.value}" in warning


def test_a_wished_default_that_cannot_be_is_named_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of("DDIMScheduler", prediction_type="sample")
    assert Solvers(config, 50, Scheduler.KDPM2).default == Scheduler.DDIM
    [warning] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "kdpm2, is not offered" in warning


@pytest.mark.parametrize(
    ("changes", "impossible"),
    [
        ({"skip_prk_steps": False}, {"pndm"}),
        ({"prediction_type": "v_prediction"}, {"lms"}),
        ({"prediction_type": "sample"}, {"pndm", "lms", "kdpm2"}),
        ({"steps_offset": 5000}, {"pndm", "ddim"}),
        ({"use_exponential_sigmas": True}, {"dpmsolver++_karras"}),
        (
            {"final_sigmas_type": "crooked"},
            {"euler", "dpmsolver++", "dpmsolver++_karras", "unipc"},
        ),
        ({"variance_type": "learned_range"}, {"dpmsolver++", "dpmsolver++_karras"}),
        ({"a_key_of_tomorrow": 1}, set()),
    ],
)
def test_a_solver_that_the_config_makes_impossible_is_not_offered(
    changes: dict[str, object], impossible: set[str]
) -> None:
    solvers = Solvers(config_of("EulerDiscreteScheduler", **changes), 50)
    assert set(Scheduler) - set(solvers.offered) == impossible
    for name in impossible:
        with pytest.raises(InvalidParameter, match="not offered") as refusal:
            solvers.table(Scheduler(name), 5)
        assert refusal.value.field == "scheduler"


@pytest.mark.parametrize(
    "changes",
    [
        {"timestep_spacing": "sideways"},
        {"beta_schedule": "crooked"},
        {"beta_start": None},
        {"beta_end": 2.0},
        {"trained_betas": [0.1] * 1000},
        {"num_train_timesteps": "many"},
    ],
)
def test_a_config_that_suits_no_solver_is_refused_with_the_reason(
    changes: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"no solver suits .* ddim with 50 steps: "):
        Solvers(config_of("DDIMScheduler", **changes), 50)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("scheduler", "steps", "instead"),
    [(Scheduler.DDIM, 61, "1, 2, 5, 20, 50"), (Scheduler.UNIPC, 100, "1, 2, 5, 20, 50")],
)
def test_a_number_of_steps_that_a_solver_cannot_make_is_refused_with_some_that_it_can(
    scheduler: Scheduler, steps: int, instead: str
) -> None:
    solvers = Solvers(config_of("PNDMScheduler", num_train_timesteps=60), 50)
    assert scheduler in solvers.offered
    with pytest.raises(InvalidParameter, match=f"cannot make {steps} steps; .* {instead}") as error:
        solvers.table(scheduler, steps)
    assert error.value.field == "num_inference_steps"
    assert solvers.table(scheduler, 50).calls == 50


@pytest.mark.parametrize(("least", "found"), [(2, 2), (3, 5), (50, 50), (101, 100)])
def test_few_steps_that_the_default_surely_makes_are_known(least: int, found: int) -> None:
    assert Solvers(config_of("DDIMScheduler"), 50).fewest_steps(least) == found
