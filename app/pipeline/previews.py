"""Previews of unfinished samples: the picture that each would become, as far as it is known.

What the model takes for noise is taken out of the latents, x̂₀ as in DDIM (Song et al., 2020,
eq. 12), and a linear map makes colours of the rest: from each latent position and its neighbours to
a block of pixels. The map is fitted to the checkpoint's own VAE by least squares, so it suits any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.errors import CheckpointError
from app.pictures import Picture
from app.pipeline.devices import event_now
from app.pipeline.samples import Sample
from app.pipeline.solver import SAMPLE_TERMS

BLOCK = 2
"""Pixels of a preview, each way, for one position of the latents."""

_NEIGHBOURS = 3
_PICTURES, _SIDE, _LEAVES = 8, 16, 60
_RIDGE = 0.01


@dataclass(frozen=True, slots=True)
class Previews:
    """Pictures on their way from the device: ``uint8 [N, height, width, 3]``, then in memory."""

    pixels: Tensor
    event: Any

    def wait(self) -> list[Picture]:
        """The pictures, once the device has made them."""
        if self.event is not None:
            self.event.synchronize()
        return list(self.pixels.numpy())


class Previewer:
    """The linear map from latents to colours, ``weight`` ``[3 · BLOCK², C, 3, 3]`` and ``bias``."""

    def __init__(self, vae: Any) -> None:
        """Fit it; takes the time of about one picture of 512 × 512 pixels in encoder and decoder.

        Raises :class:`CheckpointError` where the VAE's numbers are not finite.
        """
        inputs, outputs = _pairs(vae)
        ones = torch.ones(len(inputs), 1, dtype=inputs.dtype)
        inputs = torch.cat([inputs, ones], dim=1)
        # Ridge regression: what the pairs do not tell apart is to stay small.
        ridge = _RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
        fitted = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
        if not fitted.isfinite().all():
            raise CheckpointError(
                "the vae makes numbers of test pictures that are not finite; "
                "VARIATIONS_PREVIEWS=off does without them"
            )
        channels = inputs.shape[1] // _NEIGHBOURS**2
        weight = fitted[:-1].T.reshape(-1, channels, _NEIGHBOURS, _NEIGHBOURS)
        self._weight = weight.to(vae.device, torch.float32)
        self._bias = fitted[-1].to(vae.device, torch.float32)

    @torch.inference_mode()
    def previews(self, samples: Sequence[Sample]) -> Previews:
        """Pictures of samples of one size, each after its first step or later, begun on the device.

        They are :data:`BLOCK` times as wide and high as the latents. Returns before the device is
        done, and makes it wait for nothing.
        """
        clean = torch.stack([_estimate(sample) for sample in samples])
        levels = (self._colours(clean).clamp(0, 1) * 255).round()
        pixels = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        if pixels.device.type != "cuda":
            return Previews(pixels, None)
        held = torch.empty_like(pixels, device="cpu", pin_memory=True)
        held.copy_(pixels, non_blocking=True)
        return Previews(held, event_now(pixels.device))

    def _colours(self, latents: Tensor) -> Tensor:
        """``[N, C, h, w]`` to ``[N, 3, BLOCK · h, BLOCK · w]``, black to white about 0 to 1."""
        padded = functional.pad(latents, (1, 1, 1, 1), mode="replicate")
        blocks = functional.conv2d(padded, self._weight, self._bias)
        return functional.pixel_shuffle(blocks, BLOCK)


def _estimate(sample: Sample) -> Tensor:
    """The clean latents ``[C, h, w]`` as the last model call took them to be."""
    of_sample, of_output = sample.table.estimates[sample.position - 1].tolist()
    seen, said = sample.history[1], sample.history[SAMPLE_TERMS]
    return of_sample * seen + of_output * said  # type: ignore[no-any-return]


@torch.inference_mode()
def _pairs(vae: Any) -> tuple[Tensor, Tensor]:
    """Latents as the solver has them, and colours that the VAE makes of them, as float64 rows.

    ``[N, C · 9]``, each position with its neighbours, and ``[N, 3 · BLOCK²]``.
    """
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    pictures = torch.from_numpy(_dead_leaves(_SIDE * scale)).to(vae.device, vae.dtype)
    encoded = vae.encode(2 * pictures - 1).latent_dist.mode()
    decoded = vae.decode(encoded, return_dict=False)[0] / 2 + 0.5
    latents = (encoded * vae.config.scaling_factor).double().cpu()
    colours = functional.avg_pool2d(decoded.double().cpu().clamp(0, 1), scale // BLOCK)
    padded = functional.pad(latents, (1, 1, 1, 1), mode="replicate")
    inputs = functional.unfold(padded, _NEIGHBOURS).transpose(1, 2).flatten(0, 1)
    blocks = functional.pixel_unshuffle(colours, BLOCK)
    return inputs, blocks.flatten(2).transpose(1, 2).flatten(0, 1)


def _dead_leaves(side: int) -> NDArray[np.float32]:
    """Pictures of rectangles over one another, ``[N, 3, side, side]`` in 0–1.

    Of many sizes, they have edges and plain areas as often as photographs do (Lee et al., 2001).
    """
    random = np.random.default_rng(0)
    pictures = np.empty((_PICTURES, 3, side, side), np.float32)
    pictures[:] = random.random((_PICTURES, 3, 1, 1))
    for picture in pictures:
        for _ in range(_LEAVES):
            width, height = (1 + side * np.clip(0.08 / random.random(2), 0.02, 1)).astype(int)
            x, y = random.integers(-width, side), random.integers(-height, side)
            part = picture[:, max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
            part[:] = random.random((3, 1, 1))
    return pictures
