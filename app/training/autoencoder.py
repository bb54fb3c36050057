"""The autoencoder: 96 × 96 pixels to 12 × 12 latents of 8 channels, and back."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from app.training.dataset import Pairs
from app.training.encoder import to_tensor
from app.training.loop import Progress, Recipe, autocast, train
from app.training.world import SIZE

LATENT_CHANNELS = 8
DOWN = 8
_NOISE = 0.1
_PULL = 1e-3
_BRANCH = 0.3
_SPREAD = 0.2


def new_autoencoder(width: int = 16) -> AutoencoderKL:
    """An AutoencoderKL of four levels with random weights, the first ``width`` channels wide."""
    widths = (width, 2 * width, 4 * width, 6 * width)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # Few groups: normalising a group over a whole picture takes its mean colour away.
        norm_num_groups=2,
        sample_size=SIZE,
    )
    _let_colours_pass(autoencoder)
    return autoencoder


@torch.no_grad()
def _let_colours_pass(autoencoder: AutoencoderKL) -> None:
    """Start where the way around the residual branches hands colours on instead of losing them.

    torch's initial weights shrink what passes through a convolution by half, and nine in a row
    leave nothing of a picture's hues. Near-orthogonal ones keep it: the first steps see colours.
    """
    for name, layer in autoencoder.named_modules():
        if not isinstance(layer, nn.Conv2d) or name.endswith("conv1"):
            continue
        if name.endswith("conv2"):
            layer.weight.mul_(_BRANCH)
            continue
        mixing = nn.init.orthogonal_(torch.empty(layer.out_channels, layer.in_channels))
        if layer.kernel_size == (1, 1):
            layer.weight.copy_(mixing[..., None, None])
        elif layer.stride == (2, 2):
            layer.weight.mul_(_SPREAD)[..., :2, :2] += mixing[..., None, None] / 4
        else:
            layer.weight.mul_(_SPREAD)[..., 1, 1] += mixing


class Learner(nn.Module):
    """The autoencoder and its loss."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pictures: Tensor) -> Tensor:
        """Loss for ``pictures`` ``[B, 3, H, W]`` in [−1, 1].

        L1 of values and, for crisp outlines, of their differences to neighbours one and two pixels
        away; and the squared error of their means over a latent's field, for hues. In place of the
        variational posterior of Rombach et al. (2022), whose early noise drowns what a short
        training could learn, a fixed small noise makes the latents smooth and a weak pull to zero
        keeps them bounded; so only the posterior's mean is ever trained.
        """
        latents = self.autoencoder.encode(pictures).latent_dist.mode()
        noisy = latents + _NOISE * torch.randn_like(latents)
        decoded = self.autoencoder.decode(noisy).sample.float()
        loss = 2 * functional.l1_loss(decoded, pictures)
        for distance in (1, 2):
            for axis in (2, 3):
                loss = loss + functional.l1_loss(
                    _difference(decoded, distance, axis), _difference(pictures, distance, axis)
                )
        coarse = functional.avg_pool2d(decoded - pictures, DOWN)
        loss = loss + 3 * coarse.square().mean()
        bounded: Tensor = loss + _PULL * latents.square().mean()
        return bounded


def _difference(pictures: Tensor, distance: int, axis: int) -> Tensor:
    length = pictures.shape[axis] - distance
    return pictures.narrow(axis, distance, length) - pictures.narrow(axis, 0, length)


def train_autoencoder(
    pairs: Pairs, recipe: Recipe, folder: Path, seed: int, progress: Progress
) -> AutoencoderKL:
    """Train an autoencoder whose latents need a scaling factor yet."""
    torch.manual_seed(seed)
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(pairs.labels), recipe.batch, replace=False))
        pictures = to_tensor(pairs.pictures[chosen, rng.integers(2)]) * 2 - 1
        with autocast():
            loss: Tensor = learner(pictures.contiguous(memory_format=torch.channels_last))
        return loss

    learner = Learner(autoencoder)
    train("autoencoder", learner, recipe, loss_of, folder, seed, progress)
    return autoencoder
