"""Deterministic solvers as tables, read out of diffusers' own scheduler classes.

Every solver here is a linear recurrence over the last samples ``x`` and model outputs ``e``::

    x[i+1] = Σ_k a[i,k]·x[i−k] + Σ_k b[i,k]·e[i−k]        k < 3 for x, k < 4 for e

The coefficients are found by running diffusers' class once on basis vectors: the initial sample is
the first unit vector, the i-th model output the (i+1)-th, so that each sample the class returns
*is* its own expansion; what is left is one small least-squares problem a step. Nothing of diffusers
is called once a table exists.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import CheckpointError
from app.parameters import Scheduler

SAMPLE_TERMS = 3
OUTPUT_TERMS = 4

# Clipping and thresholding are for pictures: on latents they would break the recurrence.
_OF_LATENTS = {"clip_sample": False, "thresholding": False}
_DPM = {"thresholding": False, "algorithm_type": "dpmsolver++"}
_CLASSES: dict[Scheduler, tuple[str, dict[str, Any]]] = {
    Scheduler.PNDM: ("PNDMScheduler", {}),
    Scheduler.DDIM: ("DDIMScheduler", _OF_LATENTS),
    Scheduler.EULER: ("EulerDiscreteScheduler", {}),
    Scheduler.LMS: ("LMSDiscreteScheduler", {}),
    Scheduler.HEUN: ("HeunDiscreteScheduler", {"clip_sample": False}),
    Scheduler.KDPM2: ("KDPM2DiscreteScheduler", {}),
    Scheduler.DEIS: ("DEISMultistepScheduler", {"thresholding": False}),
    Scheduler.DPMSOLVER: ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": False}),
    Scheduler.DPMSOLVER_KARRAS: (
        "DPMSolverMultistepScheduler",
        {**_DPM, "use_karras_sigmas": True},
    ),
    Scheduler.UNIPC: ("UniPCMultistepScheduler", {"thresholding": False}),
}
# Measured residuals are below 1e-14 where a class computes in float64 and below 1e-6 where it casts
# to float32; a solver that is not a recurrence of this form misses by far more.
_LARGEST_RESIDUAL = 1e-5


@dataclass(frozen=True, slots=True)
class SolverTable:
    """One solver with one number of steps.

    ``noise_scale`` multiplies the initial unit noise. Of ``calls`` UNet calls, call ``i`` happens
    at ``timesteps[i]`` (possibly fractional) on ``input_scales[i] · x``; ``coefficients[i]`` are
    the :data:`SAMPLE_TERMS` weights of ``x[i], x[i−1], …``, then the :data:`OUTPUT_TERMS` of
    ``e[i], e[i−1], …``. All arrays are float32; ``residual`` is the largest error of the fit.
    """

    noise_scale: float
    timesteps: NDArray[np.float32]
    input_scales: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    residual: float

    @property
    def calls(self) -> int:
        """UNet calls in all: more than the steps for PNDM (+1), Heun and KDPM2 (about double)."""
        return len(self.timesteps)


def own_scheduler(config: Mapping[str, Any]) -> Scheduler:
    """The solver that a checkpoint's scheduler config names, PNDM where it is no table."""
    karras = bool(config.get("use_karras_sigmas"))
    for scheduler, (name, overrides) in _CLASSES.items():
        same_sigmas = overrides.get("use_karras_sigmas", karras) == karras
        if name == config.get("_class_name") and same_sigmas:
            return scheduler
    return Scheduler.PNDM


def solver_table(scheduler: Scheduler, steps: int, config: Mapping[str, Any]) -> SolverTable:
    """Read the table of ``scheduler`` with ``steps`` steps out of diffusers' class.

    ``config`` is the checkpoint's scheduler config. Raises :class:`CheckpointError` where the
    config does not suit the solver or makes it something else than a linear recurrence.
    """
    try:
        with warnings.catch_warnings():
            # NumPy 2's remarks on how diffusers mixes tensors and arrays.
            warnings.filterwarnings("ignore", message="__array", category=DeprecationWarning)
            solver, input_scales, samples = _probed(scheduler, steps, config)
        coefficients, residual = _fitted(samples)
    except Exception as error:
        # diffusers' classes raise whatever a config that they were not written for leads to.
        raise CheckpointError(
            f"the checkpoint's scheduler config does not suit {scheduler.value} with {steps} "
            f"steps: {error}"
        ) from error
    if residual > _LARGEST_RESIDUAL:
        raise CheckpointError(
            f"the checkpoint's scheduler config makes {scheduler.value} with {steps} steps no "
            f"linear recurrence (residual {residual:.1e})"
        )
    return SolverTable(
        float(solver.init_noise_sigma),
        solver.timesteps.double().numpy().astype(np.float32),
        input_scales.astype(np.float32),
        coefficients.astype(np.float32),
        residual,
    )


def _probed(
    scheduler: Scheduler, steps: int, config: Mapping[str, Any]
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """diffusers' scheduler after one run on basis vectors, its input scales, and its samples.

    Row i of the samples, ``[calls + 1, calls + 1]``, is ``x[i]`` in the basis of (x[0], e[0],
    e[1], …).
    """
    name, overrides = _CLASSES[scheduler]
    solver = getattr(diffusers, name).from_config(config, **overrides)
    solver.set_timesteps(steps)
    size = 1 + len(solver.timesteps)
    # UniPC mixes its sample with float32 tables of its own, so it is probed in float32.
    dtype = torch.float32 if scheduler is Scheduler.UNIPC else torch.float64
    sample, *outputs = torch.eye(size, dtype=dtype).view(size, 1, size, 1, 1)
    samples, input_scales = [sample], np.ones(size - 1)
    for i, timestep in enumerate(solver.timesteps):
        scaled = solver.scale_model_input(sample, timestep)
        input_scales[i] = float(scaled.norm() / sample.norm())
        sample = solver.step(outputs[i], timestep, sample).prev_sample
        samples.append(sample)
    return solver, input_scales, torch.stack(samples).flatten(1).double().numpy()


def _fitted(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coefficients ``[calls, SAMPLE_TERMS + OUTPUT_TERMS]`` and the largest error."""
    size = len(samples)
    coefficients = np.zeros((size - 1, SAMPLE_TERMS + OUTPUT_TERMS))
    worst = 0.0
    for i, following in enumerate(samples[1:]):
        xs, es = min(i + 1, SAMPLE_TERMS), min(i + 1, OUTPUT_TERMS)
        terms = [samples[i - k] for k in range(xs)]
        terms += [np.eye(1, size, i - k + 1)[0] for k in range(es)]
        known = np.stack(terms, axis=1)
        solution, *_ = np.linalg.lstsq(known, following, rcond=1e-10)
        worst = max(worst, float(np.abs(known @ solution - following).max()))
        coefficients[i, :xs] = solution[:xs]
        coefficients[i, SAMPLE_TERMS : SAMPLE_TERMS + es] = solution[xs:]
    return coefficients, worst
