"""The UNet and the VAE as they are served, held against the same in float32 on the CPU."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.pipeline.denoiser import Denoiser, eager
from app.pipeline.devices import fetched, sent

SIDE = 8
"""Latents along each side of what is computed for the check: a full-size UNet needs no more, and
takes a second or two for them on a CPU."""


def largest_deviation(dtype: torch.dtype) -> float:
    """The most that rounding explains, as :func:`deviations` measures it.

    Measured on a CPU, built-in weights and random ones of full size: float16 0.0004–0.0014 of the
    UNet and 0.0009–0.0022 of the VAE; bfloat16 0.004–0.014 of the UNet. With TF32, as CUDA computes
    float32 unless told otherwise, products are rounded to as many digits as float16's.
    """
    return 0.1 if dtype == torch.bfloat16 else 0.02


@torch.inference_mode()
def deviations(
    unet: Any, vae: Any, fold_time: nn.Module, denoiser: Denoiser, conditions: Tensor
) -> Iterator[tuple[str, float]]:
    """How far off ``unet`` and ``vae`` are, on random latents; a part served exactly is left out.

    ``fold_time`` was taken out of the UNet, ``denoiser`` is how that is served, ``conditions`` two
    rows for it, ``[2, 1, channels]``.
    The measure is the norm of the difference over the norm of the outcome; not a number where
    either is not finite.
    """
    device = conditions.device
    unit: int = 2 ** (len(unet.config.block_out_channels) - 1)
    shape = 2, unet.config.in_channels, max(SIDE, unit), max(SIDE, unit)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((2,), 500.0)
    if not _is_exact(unet, device):
        times = fold_time(sent(timesteps, device))
        served = denoiser(sent(latents, device), times, conditions)
        times = _in_float32(fold_time)(timesteps)
        exact = eager(_in_float32(unet))(latents, times, conditions.float().cpu())
        yield "unet", deviation(served, exact)
    if not _is_exact(vae, device):
        scaled = latents[:1] / vae.config.scaling_factor
        on_device = sent(scaled.to(vae.dtype), device).contiguous(memory_format=torch.channels_last)
        [served] = vae.decode(on_device, return_dict=False)
        [exact] = _in_float32(vae).decode(scaled, return_dict=False)
        yield "vae", deviation(served, exact)


def _is_exact(module: Any, device: torch.device) -> bool:
    return bool(device.type == "cpu" and module.dtype == torch.float32)


def deviation(served: Tensor, exact: Tensor) -> float:
    """The norm of the difference over the norm of what is exact, which is on the CPU."""
    off = fetched(served).double() - exact.double()
    return float(off.norm() / exact.double().norm().clamp(min=1e-30))


def _in_float32(module: nn.Module) -> Any:
    """The same on the CPU in float32; each layer has its weights only while it computes.

    So a large model needs no second set of weights in memory.
    """
    empty = {id(weight): _without_numbers(weight) for weight in module.parameters()}
    copy = deepcopy(module, dict(empty))
    for source, layer in zip(module.modules(), copy.modules(), strict=True):
        own = dict(source.named_parameters(recurse=False))
        layer.register_forward_pre_hook(partial(_set, own))
        layer.register_forward_hook(partial(_set, {n: empty[id(own[n])] for n in own}))
        for name, buffer in source.named_buffers(recurse=False):
            wide = torch.float32 if buffer.is_floating_point() else buffer.dtype
            setattr(layer, name, buffer.to("cpu", wide))
    return copy


def _without_numbers(weight: Tensor) -> nn.Parameter:
    empty = torch.empty_like(weight, device="meta", dtype=torch.float32)
    return nn.Parameter(empty, requires_grad=False)


def _set(weights: Mapping[str, Tensor], layer: nn.Module, *_: object) -> None:
    """A hook that gives ``layer`` these weights, in float32 and, where they are any, on the CPU."""
    for name, weight in weights.items():
        here = weight if weight.is_meta else weight.to("cpu", torch.float32)
        setattr(layer, name, nn.Parameter(here, requires_grad=False))
