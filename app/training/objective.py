"""The loss of image variations: the noise in a picture's latents, told the picture's embedding."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from app.pipeline.checkpoint import Parts
from app.training.errors import CannotStart
from app.training.examples import noise_for
from app.training.recipe import Settings

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Losses(NamedTuple):
    """Loss and timestep of each example of a batch, ``[B]`` each."""

    losses: Tensor
    timesteps: Tensor


class Objective:
    """The loss that a UNet is trained with.

    ``frozen`` are the parts that it asks, on one device.
    """

    def __init__(self, parts: Parts, settings: Settings, device: torch.device) -> None:
        """Raises :class:`CannotStart` where the scheduler predicts neither noise nor velocity."""
        self._settings = settings
        self._device = device
        self._dtype = DTYPES[settings.mixed_precision]
        self._noising = DDPMScheduler.from_config(parts.scheduler_config)
        self._kind = self._noising.config.prediction_type
        if self._kind not in ("epsilon", "v_prediction"):
            raise CannotStart(
                f"the scheduler's prediction_type is {self._kind!r}; epsilon and v_prediction are "
                "trained"
            )
        self.frozen = replace(
            parts,
            vae=self._placed(parts.vae, device),
            image_encoder=self._placed(parts.image_encoder, device),
        )

    def _placed(self, part: Any, device: torch.device) -> Any:
        """``part`` on the device; a copy where it is rounded, since the result has it as it was."""
        whole = self._dtype == torch.float32
        return (part if whole else copy.deepcopy(part)).to(device, self._dtype)

    def __call__(self, unet: Any, batch: Mapping[str, Tensor]) -> Losses:
        """The losses of a batch as :class:`~app.training.examples.Examples` makes it."""
        latents, condition = self._encoded(batch)
        noise, timesteps, kept = (
            drawn.to(self._device)
            for drawn in noise_for(
                self._settings.seed,
                batch["position"],
                tuple(latents.shape[1:]),
                self._noising.config.num_train_timesteps,
                self._settings.zeroed,
            )
        )
        noisy = self._noising.add_noise(latents, noise, timesteps)
        predicted = unet(noisy, timesteps, condition * kept[:, None, None]).sample.float()
        wanted = noise
        if self._kind == "v_prediction":
            wanted = self._noising.get_velocity(latents, noise, timesteps)
        losses = (predicted - wanted).square().mean(dim=(1, 2, 3))
        return Losses(losses * self._weights(timesteps), timesteps)

    @torch.no_grad()
    def _encoded(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scaled latents ``[B, C, h, w]`` and embeddings as one token, ``[B, 1, D]``; float32.

        The mean of the autoencoder's posterior: what spread it has is lost in the noise, and one
        trained without a variational loss has none that means anything.
        """
        pixels, encoder = (
            batch[name].to(self._device, self._dtype) for name in ("pixels", "encoder")
        )
        mean = self.frozen.vae.encode(pixels).latent_dist.mode().float()
        token = self.frozen.image_encoder(encoder).image_embeds.float()[:, None]
        return mean * self.frozen.vae.config.scaling_factor, token

    def _weights(self, timesteps: Tensor) -> Tensor:
        """min(SNR, γ) / SNR of each timestep (Hang et al., 2023), over SNR + 1 for velocities."""
        most = self._settings.min_snr
        if most is None:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self._noising, timesteps)
        whole = snr + 1 if self._kind == "v_prediction" else snr
        weights: Tensor = snr.clamp(max=most) / whole
        return weights
