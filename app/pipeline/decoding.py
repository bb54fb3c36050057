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


class Decoder:
    """The VAE's decoder and, behind it, the safety checker if there is one."""

    def __init__(self, vae: Any, safety: Safety | None) -> None:
        self._vae = vae
        self._safety = safety

    @torch.inference_mode()
    def decode(
        self, latents: Sequence[Tensor], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        """Decode ``[C, h, w]`` latents of one size together; waits for the device."""
        images = self._images(torch.stack(list(latents)))
        finite = images.isfinite().flatten(1).all(dim=1).tolist()
        pictures = [_rounded(image) for image, ok in zip(images, finite, strict=True) if ok]
        if before_check:
            before_check()
        if self._safety and pictures:
            decoded = iter(self._safety.check(pictures))
        else:
            decoded = map(Decoded, pictures)
        return [next(decoded) if ok else Decoded(None, error=_NOT_FINITE) for ok in finite]

    def _images(self, latents: Tensor) -> Tensor:
        """``[N, C, h, w]`` latents to ``[N, 3, H, W]`` in about [0, 1]."""
        scaled = latents / self._vae.config.scaling_factor
        scaled = scaled.to(self._vae.dtype, memory_format=torch.channels_last)
        image: Tensor = self._vae.decode(scaled, return_dict=False)[0]
        return image / 2 + 0.5


def _rounded(image: Tensor) -> Picture:
    """``[3, H, W]`` clamped to [0, 1], to 8 bits, rounded as diffusers' ``numpy_to_pil``."""
    scaled: NDArray[np.float32] = image.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy() * 255
    return np.ascontiguousarray(scaled.round().astype(np.uint8))
