"""From finished latents to pictures."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from app.pipeline.devices import fetched
from app.pipeline.safety import Decoded, Safety

_NOT_FINITE = "the numbers left the range of their type while denoising; try another seed"
_NOT_DECODED = "the numbers left the range of their type while decoding; try another seed"

logger = logging.getLogger(__name__)


@torch.inference_mode()
def decode(
    latents: Sequence[Tensor],
    vae: Any,
    safety: Safety | None,
    before_check: Callable[[], None] | None = None,
) -> list[Decoded]:
    """Decode ``[C, h, w]`` latents of one size together and check them; waits for the device.

    Where finite latents make a picture that is not, since the VAE leaves the range of a narrower
    type, that picture is decoded once more in float32.
    """
    stacked = torch.stack(list(latents))
    pixels, finite, decodable = _decoded(stacked, vae)
    if vae.dtype != torch.float32:
        for i, latent in enumerate(stacked):
            if decodable[i] and not finite[i]:
                logger.warning("A picture left the range of %s; decoded in float32", vae.dtype)
                [pixels[i]], [finite[i]], _ = _decoded_in_float32(latent[None], vae)
    pictures = [picture.clone().numpy() for picture, ok in zip(pixels, finite, strict=True) if ok]
    if before_check:
        before_check()
    decoded = iter(safety.check(pictures)) if safety and pictures else map(Decoded, pictures)
    return [
        next(decoded) if ok else Decoded(None, error=_NOT_DECODED if decodable[i] else _NOT_FINITE)
        for i, ok in enumerate(finite)
    ]


def _decoded(latents: Tensor, vae: Any) -> tuple[Tensor, list[bool], list[bool]]:
    """Pictures ``uint8 [n, H, W, 3]`` on the CPU; which of them, and of the latents, are finite.

    Rounded as diffusers' ``numpy_to_pil``. All that is wanted of the device comes in one transfer.
    """
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype, memory_format=torch.channels_last)
    images: Tensor = vae.decode(scaled, return_dict=False)[0] / 2 + 0.5
    levels = (images.clamp(0, 1).permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8)
    finite = [_all_finite(images), _all_finite(latents)]
    packed = fetched(torch.cat([levels.flatten(1), torch.stack(finite, dim=1)], dim=1))
    pixels, flags = packed.tensor_split((levels[0].numel(),), dim=1)
    return pixels.reshape(levels.shape), *flags.bool().T.tolist()


def _decoded_in_float32(latents: Tensor, vae: Any) -> tuple[Tensor, list[bool], list[bool]]:
    """The same with a VAE that is float32 for so long: a copy of it would stay for rare pictures.

    Its weights come back as they were: every number of a narrower type is one of float32.
    """
    dtype = vae.dtype
    try:
        return _decoded(latents, vae.to(torch.float32))
    finally:
        vae.to(dtype)


def _all_finite(tensors: Tensor) -> Tensor:
    """``uint8 [n]``: 1 where all of ``[n, …]`` are finite."""
    return tensors.isfinite().flatten(1).all(dim=1).to(torch.uint8)
