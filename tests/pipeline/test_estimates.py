"""The clean sample that a model call takes to be behind the noise."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from app.parameters import Scheduler
from app.pipeline.estimates import clean_weights
from app.pipeline.solver import solver_table
from tests.pipeline.test_solver import CONFIG

STEPS = 8


# Newer versions of NumPy dislike how diffusers makes an array of a tensor.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("scheduler", "kind", "options", "prediction"),
    [
        (Scheduler.DDIM, diffusers.DDIMScheduler, {"clip_sample": False}, "epsilon"),
        (Scheduler.DDIM, diffusers.DDIMScheduler, {"clip_sample": False}, "v_prediction"),
        (Scheduler.DDIM, diffusers.DDIMScheduler, {"clip_sample": False}, "sample"),
        (Scheduler.EULER, diffusers.EulerDiscreteScheduler, {}, "epsilon"),
        (Scheduler.EULER, diffusers.EulerDiscreteScheduler, {}, "v_prediction"),
    ],
)
def test_it_is_what_diffusers_says_where_it_says_it(
    scheduler: Scheduler, kind: Any, options: dict[str, Any], prediction: str
) -> None:
    config = {**CONFIG, "prediction_type": prediction}
    weights = solver_table(scheduler, STEPS, config).estimates
    solver = kind.from_config(config, **options)
    solver.set_timesteps(STEPS)
    random = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, 2, 2, generator=random) * solver.init_noise_sigma
    for (of_sample, of_output), timestep in zip(weights, solver.timesteps, strict=True):
        solver.scale_model_input(sample, timestep)
        output = torch.randn(sample.shape, generator=random)
        taken = solver.step(output, timestep, sample)
        mine = of_sample * sample + of_output * output
        assert (mine - taken.pred_original_sample).abs().max() < 1e-3 * sample.abs().max()
        sample = taken.prev_sample


def test_noise_alone_has_something_finite_behind_it() -> None:
    solver = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    assert solver.alphas_cumprod[-1] == 0
    assert np.isfinite(clean_weights(solver, np.array([999.0]), np.ones(1))).all()
