"""The served UNet, and diffusers' own with the same weights, called in turns.

A machine that is busy for a while is then busy for all of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from app.pipeline.compiled import compiled
from app.pipeline.denoiser import eager
from app.pipeline.folding import TimeFold, fold
from app.pipeline.packing import pack
from app.pipeline.simplify import simplify
from tests.support.checkpoints import UNET

Kind = Literal["full-size", "tiny"]
Call = Callable[[int], object]
"""A UNet call of so many rows, done when it returns."""

CONFIGS: dict[Kind, dict[str, Any]] = {"full-size": UNET["sd1"], "tiny": UNET["tiny"]}


@dataclass(frozen=True, slots=True)
class Timed:
    """Medians of a call, in seconds: of the clock, and of this process's processor time."""

    seconds: float
    processor_seconds: float


def random_unet(kind: Kind, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A UNet of this architecture with random weights, as diffusers makes it."""
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**CONFIGS[kind])
    finally:
        torch.set_default_dtype(torch.float32)
    return unet.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def inputs(unet: Any, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and tokens for diffusers' own UNet, on its device and in its type."""
    random = torch.Generator().manual_seed(rows)
    side = unet.config.sample_size
    latents = torch.randn(rows, unet.config.in_channels, side, side, generator=random)
    tokens = torch.randn(rows, 1, unet.config.cross_attention_dim, generator=random)
    timesteps = torch.rand(rows, generator=random) * 999
    return (
        latents.to(unet.device, unet.dtype, memory_format=torch.channels_last),
        timesteps.to(unet.device),
        tokens.to(unet.device, unet.dtype),
    )


def diffusers_own(unet: Any, *, compile_it: bool = False) -> Callable[..., Tensor]:
    """diffusers' UNet, called as its pipeline does; compiled as its documentation says."""
    called = torch.compile(unet, fullgraph=True, dynamic=False) if compile_it else unet

    def predict(latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        outputs: Tensor = called(latents, timesteps, tokens, return_dict=False)[0]
        return outputs

    return predict


def served(unet: Any, *, compile_it: bool = False) -> Callable[..., Tensor]:
    """A copy of ``unet`` as it is served, called with diffusers' inputs.

    What is made once a request is made once here, for the inputs that come first.
    """
    own = deepcopy(unet)
    condition = fold(own)
    simplify(own)
    fold_time = TimeFold(own)
    zero = condition(torch.zeros(unet.config.cross_attention_dim))
    side = unet.config.sample_size
    if compile_it:
        time = fold_time(torch.zeros(1, device=unet.device))[0]
        denoiser = compiled(own, (time, zero), [(unet.config.in_channels, side, side)])
    else:
        if unet.device.type == "cpu":
            pack(own)
        denoiser = eager(own)
    folded: dict[int, tuple[Tensor, Tensor]] = {}

    def predict(latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        rows = len(tokens)
        if rows not in folded:
            conditions = torch.stack([condition(token[0]) for token in tokens])
            folded[rows] = fold_time(timesteps), conditions
        return denoiser(latents.float(), *folded[rows])

    return predict


@torch.inference_mode()
def deviation(one: Tensor, other: Tensor) -> float:
    """How far apart two outcomes are: the norm of their difference over that of the second."""
    return float((one.double() - other.double()).norm() / other.double().norm())


@torch.inference_mode()
def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, wait: Callable[[], object] | None = None
) -> dict[str, Timed]:
    """Medians of ``rounds`` calls of each, one after the other, after one that is not counted.

    ``wait`` waits for a device that works on while its calls return.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            if wait:
                wait()
            if number:
                taken[name].append((time.perf_counter() - began, time.process_time() - used))
    return {
        name: Timed(*(statistics.median(column) for column in zip(*pairs, strict=True)))
        for name, pairs in taken.items()
    }
