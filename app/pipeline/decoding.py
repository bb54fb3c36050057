"""From finished latents to pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.pictures import Picture
from app.pipeline.safety import Decoded, Safety

_NOT_FINITE = "the numbers left the range of their type while denoising; try another seed"


@torch.inference_mode()
def decode(
    latents: Sequence[Tensor],
    vae: Any,
    safety: Safety | None,
    before_check: Callable[[], None] | None = None,
) -> list[Decoded]:
    """Decode ``[C, h, w]`` latents of one size together and check them; waits for the device."""
    scaled = torch.stack(list(latents)) / vae.config.scaling_factor
    scaled = scaled.to(vae.dtype, memory_format=torch.channels_last)
    images: Tensor = vae.decode(scaled, return_dict=False)[0] / 2 + 0.5
    finite = images.isfinite().flatten(1).all(dim=1).tolist()
    pictures = [_rounded(image) for image, ok in zip(images, finite, strict=True) if ok]
    if before_check:
        before_check()
    decoded = iter(safety.check(pictures)) if safety and pictures else map(Decoded, pictures)
    return [next(decoded) if ok else Decoded(None, error=_NOT_FINITE) for ok in finite]


def _rounded(image: Tensor) -> Picture:
    """``[3, H, W]`` clamped to [0, 1], to 8 bits, rounded as diffusers' ``numpy_to_pil``."""
    scaled: NDArray[np.float32] = image.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy() * 255
    return np.ascontiguousarray(scaled.round().astype(np.uint8))
