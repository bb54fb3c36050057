"""Short ways through a pipeline for tests."""

from collections.abc import Callable

import numpy as np

from app.parameters import Condition, Parameters
from app.pictures import Picture
from app.pipeline import Pipeline, Sample

Draw = Callable[[int], Picture]
"""A picture for every seed."""


def draw(seed: int) -> Picture:
    """A picture that is neither square nor smooth, another for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fine = rng.integers(0, 40, (50, 70, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((10, 10, 1), np.uint8)) // 2 + fine


def condition_of(pipeline: Pipeline, picture: Picture, parameters: Parameters) -> Condition:
    """The condition of a request with this picture."""
    pixels = pipeline.preprocessing(picture, parameters.fit)
    return Condition.guided(pixels, parameters.guidance_scale)


def start(pipeline: Pipeline, picture: Picture, parameters: Parameters) -> list[Sample]:
    """A request's samples before their first step."""
    rows = pipeline.condition(condition_of(pipeline, picture, parameters))
    return [pipeline.start(rows, parameters, index) for index in range(parameters.n)]
