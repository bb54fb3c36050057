"""Deterministic solvers as tables, read out of diffusers' own scheduler classes.

Every solver here is a linear recurrence over the last samples ``x`` and model outputs ``e``::

    x[i+1] = Σ_k a[i,k]·x[i−k] + Σ_k b[i,k]·e[i−k]        k < 3 for x, k < 4 for e

The coefficients are found by running diffusers' class once on basis vectors: the initial sample is
the first unit vector, the i-th model output the (i+1)-th, so that each sample the class returns
*is* its own expansion; what is left is one small least-squares problem a step. Random numbers run
beside the basis vectors, and the table must make of them what the class did: so every table is
proven as it is built. Nothing of diffusers is called once a table exists.
"""

import math
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import CheckpointError
from app.parameters import MAX_STEPS, Scheduler, unet_calls
from app.pipeline.estimates import clean_weights

SAMPLE_TERMS = 3
OUTPUT_TERMS = 4

# Clipping and thresholding are for pictures: on latents they would break the recurrence.
_OF_LATENTS = {"clip_sample": False, "thresholding": False}
_DPM = {"thresholding": False, "algorithm_type": "dpmsolver++"}
# What makes another solver of a class: a checkpoint that asks for it does not ask for ours.
_KINDS = {"use_karras_sigmas": False, "algorithm_type": "dpmsolver++"}
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

_TRIALS = 8
_LARGEST_DEVIATION = 1e-4
"""Of a table's random run from its class's, in units of the largest number of that call."""


@dataclass(frozen=True, slots=True)
class SolverTable:
    """One solver with one number of steps, from the first call or from a later one.

    A sample begins as unit noise times ``noise_scale`` and clean latents times ``picture_scale``,
    which is 0 where it begins as noise alone. Of ``calls`` UNet calls, call ``i`` happens
    at ``timesteps[i]`` (possibly fractional) on ``input_scales[i] · x``; ``coefficients[i]`` are
    the :data:`SAMPLE_TERMS` weights of ``x[i], x[i−1], …``, then the :data:`OUTPUT_TERMS` of
    ``e[i], e[i−1], …``; ``estimates[i]`` those of ``x[i]`` and ``e[i]`` in the clean sample that
    the call took to be behind the noise. All arrays are float32; ``residual`` is the largest error
    of the fit.
    """

    noise_scale: float
    timesteps: NDArray[np.float32]
    input_scales: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    estimates: NDArray[np.float32]
    residual: float
    picture_scale: float = 0.0

    @property
    def calls(self) -> int:
        """UNet calls in all: more than the steps for PNDM (+1), Heun and KDPM2 (about double)."""
        return len(self.timesteps)


def own_scheduler(config: Mapping[str, Any]) -> Scheduler | None:
    """The solver that a checkpoint's scheduler config names, ``None`` where it is none of ours."""
    for scheduler, (name, overrides) in _CLASSES.items():
        kinds = overrides.keys() & _KINDS.keys()
        if name == config.get("_class_name") and all(
            (config.get(key) or _KINDS[key]) == overrides[key] for key in kinds
        ):
            return scheduler
    return None


class TableBuilding:
    """The reading of one table out of diffusers' class, which can be done bit by bit.

    ``config`` is the checkpoint's scheduler config. With ``begin`` the solver's call of that number
    is the first: it is made on a picture's latents with the noise added that belongs there, and the
    solver knows of nothing before it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        steps: int,
        config: Mapping[str, Any],
        begin: int | None = None,
    ) -> None:
        self._building = _built(scheduler, steps, config, begin)
        self._said = (
            f"the checkpoint's scheduler config does not suit {scheduler.value} with {steps} steps"
        )

    def go_on(self, seconds: float = math.inf) -> SolverTable | None:
        """Go on for about so many seconds, at least a bit; the table, proven, once it is there.

        Raises :class:`CheckpointError` where the config does not suit the solver or makes it
        something else than a linear recurrence.
        """
        until = perf_counter() + seconds
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                # Remarks on diffusers' code and on its numbers, which are looked at afterwards.
                warnings.simplefilter("ignore")
                next(self._building)
                while perf_counter() < until:
                    next(self._building)
            return None
        except StopIteration as end:
            table: SolverTable = end.value
            return table
        except _Disproof as disproof:
            raise CheckpointError(f"{self._said}: {disproof}") from disproof
        except Exception as error:
            # diffusers' classes raise whatever a config that they were not written for leads to.
            words = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{self._said}: {type(error).__name__}: {words}") from error


def solver_table(
    scheduler: Scheduler, steps: int, config: Mapping[str, Any], begin: int | None = None
) -> SolverTable:
    """The table of ``scheduler`` with ``steps`` steps, built by :class:`TableBuilding` at once."""
    table = TableBuilding(scheduler, steps, config, begin).go_on()
    assert table is not None  # noqa: S101  it had no end of time
    return table


class _Disproof(Exception):
    """The table is not to be used, for the reason said."""


def _built(
    scheduler: Scheduler, steps: int, config: Mapping[str, Any], begin: int | None
) -> Generator[None, None, SolverTable]:
    run = yield from _probed(scheduler, steps, config, begin)
    yield
    table = run.table()
    yield
    if wrong := _disproof(table, run, unet_calls(scheduler, steps) - (begin or 0)):
        raise _Disproof(wrong)
    return table


class _QuickLMS(diffusers.LMSDiscreteScheduler):  # type: ignore[misc]
    """diffusers' class, which integrates numerically over tensors of one number each."""

    sigmas: Any

    def get_lms_coefficient(self, *arguments: int) -> float:
        sigmas = self.sigmas
        self.sigmas = sigmas.tolist()
        try:
            return float(super().get_lms_coefficient(*arguments))
        finally:
            self.sigmas = sigmas


class _QuickKDPM2(diffusers.KDPM2DiscreteScheduler):  # type: ignore[misc]
    """diffusers' class, which looks up every timestep with tensors and arrays mixed."""

    def _sigma_to_t(self, sigma: Any, log_sigmas: Any) -> Any:
        return super()._sigma_to_t(np.asarray(sigma), np.asarray(log_sigmas))

    def set_timesteps(self, num_inference_steps: int, *others: Any) -> None:
        # Its constructor asks for as many as in training, which nobody reads.
        super().set_timesteps(min(num_inference_steps, MAX_STEPS), *others)


_QUICKER = {"LMSDiscreteScheduler": _QuickLMS, "KDPM2DiscreteScheduler": _QuickKDPM2}
"""Classes that take seconds as they are, and milliseconds so."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a diffusers class: ``calls`` steps of basis vectors and of random numbers.

    Row i of ``basis``, ``[calls + 1, calls + 1]``, is ``x[i]`` in the basis of (x[0], e[0], e[1],
    …). ``trial`` ``[calls + 1, trials]`` is what became of random samples with the model outputs
    ``trial_outputs``, ``[calls, trials]``.
    """

    picture_scale: float
    noise_scale: float
    timesteps: NDArray[np.float64]
    input_scales: NDArray[np.float64]
    estimates: NDArray[np.float64]
    basis: NDArray[np.float64]
    trial: NDArray[np.float64]
    trial_outputs: NDArray[np.float64]

    def table(self) -> SolverTable:
        """The table that it shows, not yet proven."""
        coefficients, residual = _fitted(self.basis)
        return SolverTable(
            self.noise_scale,
            self.timesteps.astype(np.float32),
            self.input_scales.astype(np.float32),
            coefficients.astype(np.float32),
            self.estimates.astype(np.float32),
            residual,
            self.picture_scale,
        )


def _probed(
    scheduler: Scheduler, steps: int, config: Mapping[str, Any], begin: int | None
) -> Generator[None, None, _Run]:
    name, overrides = _CLASSES[scheduler]
    solver = _QUICKER.get(name, getattr(diffusers, name)).from_config(config, **overrides)
    solver.set_timesteps(steps)
    at = solver.timesteps[begin or 0 :]
    picture_scale, noise_scale = _start(solver, at, begin)
    calls = len(at)
    # UniPC mixes its sample with float32 tables of its own, so it is probed in float32.
    dtype = torch.float32 if scheduler is Scheduler.UNIPC else torch.float64
    random = torch.randn(1 + calls, _TRIALS, generator=torch.Generator().manual_seed(0))
    random[0] *= picture_scale + noise_scale
    both = torch.cat([torch.eye(1 + calls), random], dim=1).to(dtype)
    sample, *outputs = both.view(1 + calls, 1, -1, 1, 1)
    samples, input_scales = [sample], np.ones(calls)
    for i, timestep in enumerate(at):
        scaled = solver.scale_model_input(sample, timestep)
        input_scales[i] = float(scaled.norm() / sample.norm())
        sample = solver.step(outputs[i], timestep, sample).prev_sample
        samples.append(sample)
        yield
    ran = torch.stack(samples).flatten(1).double().numpy()
    timesteps = at.double().numpy()
    return _Run(
        picture_scale=picture_scale,
        noise_scale=noise_scale,
        timesteps=timesteps,
        input_scales=input_scales,
        estimates=clean_weights(solver, timesteps, input_scales),
        basis=ran[:, : 1 + calls],
        trial=ran[:, 1 + calls :],
        trial_outputs=random[1:].double().numpy(),
    )


def _start(solver: Any, timesteps: Tensor, begin: int | None) -> tuple[float, float]:
    """The parts that a picture's latents and unit noise have in the first sample."""
    if begin is None:
        return 0.0, float(solver.init_noise_sigma)
    if hasattr(solver, "set_begin_index"):
        solver.set_begin_index(begin)
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1).double()
    picture = solver.add_noise(one, nothing, timesteps[:1])
    noise = solver.add_noise(nothing, one, timesteps[:1])
    return float(picture), float(noise)


def _fitted(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coefficients ``[calls, SAMPLE_TERMS + OUTPUT_TERMS]`` and the largest error.

    Raises :class:`ValueError` for samples that are not finite, which LAPACK would complain of.
    """
    if not np.isfinite(samples).all():
        raise ValueError("its numbers are not finite")
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


def _disproof(table: SolverTable, run: _Run, calls: int) -> str | None:
    """Why the table is not to be used, if there is a reason."""
    if table.calls != calls:
        return f"it calls the model {table.calls} times, not {calls}"
    numbers = table.noise_scale, table.timesteps, table.input_scales, table.coefficients
    if not all(np.isfinite(each).all() for each in numbers):
        return "its numbers are not finite"
    if table.residual > _LARGEST_RESIDUAL:
        return f"it is no linear recurrence (residual {table.residual:.1e})"
    samples = [run.trial[0]]
    for i, weights in enumerate(table.coefficients.astype(np.float64)):
        terms = [samples[max(i - k, 0)] for k in range(SAMPLE_TERMS)]
        terms += [run.trial_outputs[max(i - k, 0)] for k in range(OUTPUT_TERMS)]
        samples.append(weights @ np.stack(terms))  # what is before the first has weight 0
    misses = np.abs(samples - run.trial).max(axis=1) / np.abs(run.trial).max(axis=1)
    deviation = float(misses.max())
    if not deviation <= _LARGEST_DEVIATION:
        return f"random numbers come out of it otherwise (by {deviation:.1e})"
    return None
