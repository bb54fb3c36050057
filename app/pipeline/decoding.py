"""From finished latents to pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.pictures import Picture
from app.pipeline.safety import Safety, Verdict

_NOT_FINITE = "the numbers left the range of their type while denoising; try another seed"
_UNCHECKED = "the safety checker could not judge the picture: its numbers are not finite"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One finished variation: ``picture``, ``uint8 [height, width, 3]``, unless something is amiss.

    ``flagged`` pictures are withheld. ``error`` says, for the caller, why there is no picture
    though nothing was flagged: broken numbers are never handed on as a black picture.
    """

    picture: Picture | None
    flagged: bool = False
    error: str | None = None


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
        decoded = [Decoded(None, error=_NOT_FINITE)] * len(latents)
        images = self._images(torch.stack(list(latents)))
        sound = images.isfinite().flatten(1).all(dim=1).tolist()
        chosen = [i for i, ok in enumerate(sound) if ok]
        pictures = [_rounded(images[i]) for i in chosen]
        if before_check:
            before_check()
        for i, picture, verdict in zip(chosen, pictures, self._verdicts(pictures), strict=True):
            decoded[i] = _judged(picture, verdict)
        return decoded

    def _images(self, latents: Tensor) -> Tensor:
        """``[N, C, h, w]`` latents to ``[N, 3, H, W]`` in about [0, 1]."""
        scaled = latents / self._vae.config.scaling_factor
        scaled = scaled.to(self._vae.dtype, memory_format=torch.channels_last)
        image: Tensor = self._vae.decode(scaled, return_dict=False)[0]
        return image / 2 + 0.5

    def _verdicts(self, pictures: list[Picture]) -> list[Verdict]:
        if self._safety is None or not pictures:
            return [Verdict(flagged=False, sound=True)] * len(pictures)
        return self._safety.check(pictures)


def _rounded(image: Tensor) -> Picture:
    """``[3, H, W]`` clamped to [0, 1], to 8 bits, rounded as diffusers' ``numpy_to_pil``."""
    scaled: NDArray[np.float32] = image.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy() * 255
    return np.ascontiguousarray(scaled.round().astype(np.uint8))


def _judged(picture: Picture, verdict: Verdict) -> Decoded:
    if not verdict.sound:
        return Decoded(None, error=_UNCHECKED)
    return Decoded(None, flagged=True) if verdict.flagged else Decoded(picture)
