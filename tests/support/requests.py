"""Parameters, conditions and models for tests that make no real pictures."""

from dataclasses import replace

import numpy as np

from app.parameters import Condition, EncoderInput, Fit, ModelInfo, Parameters, Scheduler
from app.pictures.fit import Preprocessing

MODEL = ModelInfo(
    id="fake",
    revision="v1",
    guidance_scale=3.0,
    num_inference_steps=4,
    scheduler=Scheduler.DDIM,
    schedulers=tuple(Scheduler),
    fit=Fit.SQUASH,
    sizes=((64, 64), (96, 64)),
    device="cpu",
    dtype="float32",
    safety_checker=True,
)

PREPROCESSING = Preprocessing(side=32, antialias=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

SHORT_REQUEST = Parameters(1, 3.0, 4, Scheduler.DDIM, 7, 64, 64, Fit.SQUASH)
ENDLESS_REQUEST = replace(SHORT_REQUEST, n=8, num_inference_steps=100, scheduler=Scheduler.HEUN)
"""Takes many steps: it is ended by its test."""


def encoder_input(seed: int = 0, side: int = 32) -> EncoderInput:
    """A fitted picture of noise."""
    return np.random.default_rng(seed).normal(size=(3, side, side)).astype(np.float32)


def condition_for(parameters: Parameters, picture: EncoderInput | None = None) -> Condition:
    """The condition of a request with this picture, or one of noise."""
    looked_at = encoder_input() if picture is None else picture
    return Condition.guided(looked_at, parameters.guidance_scale)
