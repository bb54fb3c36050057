"""The clean sample that a model call takes to be behind the noise, in a solver's own units."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-8
"""Of ᾱ: some schedules end in noise alone, behind which there is nothing to be estimated."""


def clean_weights(
    solver: Any, timesteps: NDArray[np.float64], input_scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights ``[calls, 2]`` of the sample and the model output in x̂₀, by what the model predicts.

    Whatever the solver's own units are, what it shows the model is ``√ᾱ·x₀ + √(1−ᾱ)·ε``. A
    timestep between two of training has a noise level between theirs.
    """
    products = solver.alphas_cumprod.double().numpy().clip(_LEAST, 1 - _LEAST)
    levels = np.log((1 - products) / products) / 2
    sigmas = np.exp(np.interp(timesteps, np.arange(len(levels)), levels))
    lengths = np.sqrt(1 + sigmas**2)
    match solver.config.prediction_type:
        case "epsilon":
            return np.stack([input_scales * lengths, -sigmas], axis=1)
        case "v_prediction":
            return np.stack([input_scales / lengths, -sigmas / lengths], axis=1)
        case _:  # the clean sample itself
            return np.stack([0 * sigmas, 1 + 0 * sigmas], axis=1)
