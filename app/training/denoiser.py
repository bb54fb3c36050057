"""The denoiser: predicts the noise in a drawing's latents, told the embedding of its twin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from app.training.autoencoder import DOWN, LATENT_CHANNELS
from app.training.dataset import Pairs
from app.training.encoder import EMBEDDING, NORM, embed, to_tensor
from app.training.loop import Progress, Recipe, train
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


@dataclass(frozen=True, slots=True)
class Encoded:
    """Every drawing's latents, scaled to a standard deviation of 1, and its embedding.

    ``latents`` is float16 ``[N, 2, C, h, w]``, ``embeddings`` float32 ``[N, 2, EMBEDDING]``.
    """

    latents: NDArray[np.float16]
    embeddings: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what :func:`encode_pairs` wrote."""
        return cls(np.load(folder / "latents.npy"), np.load(folder / "embeddings.npy"))


@torch.inference_mode()
def fit_scales(
    pairs: Pairs, encoder: CLIPVisionModelWithProjection, autoencoder: AutoencoderKL
) -> None:
    """Make embeddings :data:`NORM` long on average, and register the latents' scaling factor."""
    drawn = to_tensor(pairs.pictures[:500, 0])
    encoder.visual_projection.weight.mul_(NORM / embed(encoder, drawn).norm(dim=-1).mean())
    spread = autoencoder.encode(drawn * 2 - 1).latent_dist.mean.std().item()
    autoencoder.register_to_config(scaling_factor=1 / spread)


@torch.inference_mode()
def encode_pairs(
    pairs: Pairs,
    encoder: CLIPVisionModelWithProjection,
    autoencoder: AutoencoderKL,
    folder: Path,
    progress: Progress,
) -> Encoded:
    """Latents and embeddings of all ``pairs``, kept in ``folder``."""
    if (folder / "embeddings.npy").exists():
        return Encoded.load(folder)
    folder.mkdir(parents=True, exist_ok=True)
    n, latents, embeddings = len(pairs.labels), [], []
    for start in range(0, n, _CHUNK):
        pictures = to_tensor(pairs.pictures[start : start + _CHUNK]).flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = autoencoder.encode(pictures * 2 - 1).latent_dist
        scaled = posterior.mean.float() * autoencoder.config.scaling_factor
        latents.append(scaled.half().numpy())
        embeddings.append(embed(encoder, pictures).numpy())
        progress("encoded pairs", min(start + _CHUNK, n), n, 0.0)
    np.save(folder / "latents.npy", _paired(latents))
    np.save(folder / "embeddings.npy", _paired(embeddings))
    return Encoded.load(folder)


def _paired(chunks: list[NDArray[Any]]) -> NDArray[Any]:
    flat = np.concatenate(chunks)
    return flat.reshape(-1, 2, *flat.shape[1:])


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
    encoded: Encoded, width: int, recipe: Recipe, folder: Path, seed: int, progress: Progress
) -> UNet2DConditionModel:
    """Train a denoiser: each drawing is conditioned on the embedding of its pair's other one."""
    torch.manual_seed(seed)
    denoiser = new_denoiser(width)
    denoiser.set_attn_processor(AttnProcessor())  # over so few places faster than SDPA
    learner = Learner(denoiser)

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(encoded.latents), recipe.batch, replace=False))
        which = rng.integers(2, size=recipe.batch)
        latents = torch.from_numpy(encoded.latents[chosen, which]).float()
        embeddings = torch.from_numpy(encoded.embeddings[chosen, 1 - which])
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = learner(latents, embeddings)
        return loss

    train("denoiser", learner, recipe, loss_of, folder, seed, progress)
    return denoiser
