"""The denoiser: predicts the noise in a drawing's latents, told the embedding of its twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from app.training.autoencoder import DOWN, LATENT_CHANNELS
from app.training.dataset import Pairs
from app.training.encoder import EMBEDDING, codes, embed, to_tensor
from app.training.loop import Progress, Recipe, autocast, train
from app.training.world import SIZE

NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""The noise schedule of the card's checkpoint."""

_UNCONDITIONED = 0.1
_MIN_SNR = 5.0
_CHUNK = 100


def new_denoiser(width: int = 32) -> UNet2DConditionModel:
    """A UNet of three levels with random weights, 3, 5 and 5 times ``width`` channels wide."""
    return UNet2DConditionModel(
        sample_size=SIZE // DOWN,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(3 * width, 5 * width, 5 * width),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=EMBEDDING,
        norm_num_groups=width // 2,
    )


@torch.inference_mode()
def fit_latents(pairs: Pairs, autoencoder: AutoencoderKL) -> None:
    """Register the scaling factor that makes latents' standard deviation 1."""
    latents = autoencoder.encode(to_tensor(pairs.pictures[:500, 0]) * 2 - 1).latent_dist.mean
    autoencoder.register_to_config(scaling_factor=1 / latents.std().item())


@torch.inference_mode()
def encode_pairs(
    pairs: Pairs, autoencoder: AutoencoderKL, folder: Path, progress: Progress
) -> NDArray[np.float16]:
    """The scaled latents ``[N, 2, C, h, w]`` of all ``pairs``, kept in ``folder``."""

    def encode(pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
        with autocast():
            mean = autoencoder.encode(to_tensor(pictures) * 2 - 1).latent_dist.mean.float()
        latents: NDArray[np.float16] = (mean * autoencoder.config.scaling_factor).half().numpy()
        return latents

    return _of_all(pairs, "latents", encode, folder, progress)


@torch.inference_mode()
def embed_pairs(
    pairs: Pairs, encoder: CLIPVisionModelWithProjection, folder: Path, progress: Progress
) -> NDArray[np.float32]:
    """The embeddings ``[N, 2, EMBEDDING]`` of all ``pairs``, kept in ``folder``."""

    def encode(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with autocast():
            embeddings: Tensor = embed(encoder, to_tensor(pictures))
        return embeddings.float().numpy()

    return _of_all(pairs, "embeddings", encode, folder, progress)


def code_pairs(pairs: Pairs) -> NDArray[np.float32]:
    """The result of :func:`embed_pairs` with a perfect encoder."""
    chunks = []
    for start in range(0, len(pairs.labels), _CHUNK):
        pictures = pairs.pictures[start : start + _CHUNK]
        labels = np.repeat(pairs.labels[start : start + _CHUNK], 2, axis=0)
        chunks.append(codes(pictures.reshape(-1, *pictures.shape[2:]), labels))
    return np.concatenate(chunks).reshape(-1, 2, EMBEDDING)


def _of_all(
    pairs: Pairs,
    name: str,
    encode: Callable[[NDArray[np.uint8]], NDArray[Any]],
    folder: Path,
    progress: Progress,
) -> NDArray[Any]:
    kept = folder / f"{name}.npy"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        n, chunks = len(pairs.labels), []
        for start in range(0, n, _CHUNK):
            pictures = pairs.pictures[start : start + _CHUNK]
            chunks.append(encode(pictures.reshape(-1, *pictures.shape[2:])))
            progress(name, min(start + _CHUNK, n), n, 0.0)
        flat = np.concatenate(chunks)
        np.save(kept, flat.reshape(n, 2, *flat.shape[1:]))
    everything: NDArray[Any] = np.load(kept)
    return everything


class Learner(nn.Module):
    """The denoiser and its loss."""

    def __init__(self, denoiser: UNet2DConditionModel) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.noising = DDPMScheduler(**NOISE)

    def forward(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        """Loss for ``latents`` ``[B, C, h, w]`` and ``embeddings`` ``[B, EMBEDDING]``.

        The squared error of the predicted noise, weighted by min(SNR, 5) / SNR (Hang et al.,
        2023); one condition in ten is zeroed, which is what guidance needs.
        """
        noise = torch.randn_like(latents)
        steps = torch.randint(self.noising.config.num_train_timesteps, (len(latents),))
        noisy = self.noising.add_noise(latents, noise, steps)
        kept = (torch.rand(len(latents), 1, 1) >= _UNCONDITIONED).float()
        condition = embeddings[:, None] * kept
        predicted = self.denoiser(noisy, steps, condition).sample.float()
        alpha = self.noising.alphas_cumprod[steps]
        weight = (_MIN_SNR * (1 - alpha) / alpha).clamp(max=1)
        loss: Tensor = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        return loss


def train_denoiser(
    name: str,
    denoiser: UNet2DConditionModel,
    latents: NDArray[np.float16],
    conditions: NDArray[np.float32],
    recipe: Recipe,
    folder: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train ``denoiser`` in place; a drawing's condition is that of its pair's other drawing."""
    denoiser.set_attn_processor(AttnProcessor())  # over so few places faster than SDPA
    learner = Learner(denoiser)

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = rng.choice(len(latents), recipe.batch)
        which = rng.integers(2, size=recipe.batch)
        wanted = torch.from_numpy(latents[chosen, which]).float()
        condition = torch.from_numpy(conditions[chosen, 1 - which])
        with autocast():
            loss: Tensor = learner(wanted, condition)
        return loss

    train(name, learner, recipe, loss_of, folder, seed, progress)
