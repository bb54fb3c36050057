"""Variations as the checkpoint will make them, while its parts are still being trained."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray

from app.training.denoiser import NOISE
from app.training.loop import Progress, autocast

_CHUNK = 32
_SOLVER = {**NOISE, "set_alpha_to_one": False, "steps_offset": 1}


@torch.inference_mode()
def vary(
    denoiser: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    embeddings: NDArray[np.float32],
    seed: int,
    progress: Progress,
    *,
    scheduler_config: Mapping[str, Any] = _SOLVER,
    guidance: float = 5.0,
    steps: int = 25,
) -> NDArray[np.uint8]:
    """One variation, uint8 ``[N, H, W, 3]``, of each of ``embeddings`` ``[N, D]``, by DDIM."""
    generator = torch.Generator().manual_seed(seed)
    solver = DDIMScheduler.from_config({**scheduler_config, "clip_sample": False})
    size, pictures, device = denoiser.config.sample_size, [], denoiser.device
    for start in range(0, len(embeddings), _CHUNK):
        told = torch.from_numpy(embeddings[start : start + _CHUNK])[:, None].to(device)
        conditions = torch.cat((told, torch.zeros_like(told)))
        shape = (len(told), denoiser.config.in_channels, size, size)
        latents = torch.randn(shape, generator=generator).to(device)
        solver.set_timesteps(steps)
        with autocast(device.type):
            for step in solver.timesteps:
                predicted = denoiser(latents.repeat(2, 1, 1, 1), step, conditions).sample.float()
                with_it, without = predicted.chunk(2)
                guided = without + guidance * (with_it - without)
                latents = solver.step(guided, step, latents).prev_sample
            scaled = (latents / autoencoder.config.scaling_factor).to(autoencoder.dtype)
            decoded = autoencoder.decode(scaled).sample
        values = (decoded.float() / 2 + 0.5).clamp(0, 1)
        pictures.append((values * 255).round().byte().movedim(1, -1).cpu().numpy())
        progress("variations", min(start + _CHUNK, len(embeddings)), len(embeddings), 0.0)
    return np.concatenate(pictures)
