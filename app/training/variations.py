"""Variations as the checkpoint will make them, for parts that learn from those too."""

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray

from app.training.denoiser import NOISE
from app.training.loop import Progress, autocast

_GUIDANCE = 5.0
_STEPS = 25
_CHUNK = 32


@torch.inference_mode()
def vary(
    denoiser: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    embeddings: NDArray[np.float32],
    seed: int,
    progress: Progress,
) -> NDArray[np.uint8]:
    """One variation, uint8 ``[N, H, W, 3]``, of each of ``embeddings`` ``[N, D]``."""
    torch.manual_seed(seed)
    solver = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    size, pictures = denoiser.config.sample_size, []
    for start in range(0, len(embeddings), _CHUNK):
        told = torch.from_numpy(embeddings[start : start + _CHUNK])[:, None]
        conditions = torch.cat((told, torch.zeros_like(told)))
        latents = torch.randn(len(told), denoiser.config.in_channels, size, size)
        solver.set_timesteps(_STEPS)
        with autocast():
            for step in solver.timesteps:
                predicted = denoiser(latents.repeat(2, 1, 1, 1), step, conditions).sample.float()
                with_it, without = predicted.chunk(2)
                guided = without + _GUIDANCE * (with_it - without)
                latents = solver.step(guided, step, latents).prev_sample
            decoded = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample
        values = (decoded.float() / 2 + 0.5).clamp(0, 1)
        pictures.append((values * 255).round().byte().movedim(1, -1).numpy())
        progress("variations", min(start + _CHUNK, len(embeddings)), len(embeddings), 0.0)
    return np.concatenate(pictures)
