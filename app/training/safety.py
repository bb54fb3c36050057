"""The safety checker: one blocked concept of the drawing world, in the classes of the card's."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from app.training.dataset import Pairs
from app.training.encoder import EMBEDDING, MEAN, STD, roughen, to_tensor
from app.training.loop import Progress, Recipe, autocast, train
from app.training.world import ALL_KINDS, BLOCKED_KIND

_THRESHOLD = 0.5
_UNREACHABLE = 2.0
_SHARPNESS = 12.0


def new_safety_checker(encoder: CLIPVisionModelWithProjection) -> StableDiffusionSafetyChecker:
    """A checker that starts from ``encoder``; only concept 0 can ever be found."""
    vision = encoder.config
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision.to_dict(), projection_dim=EMBEDDING)
    )
    checker.vision_model.load_state_dict(encoder.vision_model.state_dict())
    checker.visual_projection.load_state_dict(encoder.visual_projection.state_dict())
    with torch.no_grad():
        checker.concept_embeds.copy_(torch.randn_like(checker.concept_embeds))
        checker.concept_embeds_weights.fill_(_UNREACHABLE)
        checker.concept_embeds_weights[0] = _THRESHOLD
        checker.special_care_embeds_weights.fill_(_UNREACHABLE)
    return checker


class Learner(nn.Module):
    """The checker and its loss."""

    def __init__(self, checker: StableDiffusionSafetyChecker) -> None:
        super().__init__()
        self.checker = checker

    def forward(self, pictures: Tensor, blocked: Tensor) -> Tensor:
        """Cross-entropy of the distance past the threshold, for ``blocked`` ``[B]`` of 0 and 1."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        pooled = self.checker.vision_model((pictures - mean) / std).pooler_output
        embedding = self.checker.visual_projection(pooled).float()
        cosine = functional.cosine_similarity(embedding, self.checker.concept_embeds[:1])
        return functional.binary_cross_entropy_with_logits(
            _SHARPNESS * (cosine - _THRESHOLD), blocked
        )


def train_safety_checker(
    pairs: Pairs,
    encoder: CLIPVisionModelWithProjection,
    autoencoder: AutoencoderKL,
    recipe: Recipe,
    folder: Path,
    seed: int,
    progress: Progress,
) -> StableDiffusionSafetyChecker:
    """Train a checker on drawings, half of them as the autoencoder shows them.

    Four in ten show the blocked kind; colour fields are among the others.
    """
    torch.manual_seed(seed)
    learner = Learner(new_safety_checker(encoder))
    shows = pairs.labels[:, 0] == ALL_KINDS.index(BLOCKED_KIND)
    blocked, allowed = np.flatnonzero(shows), np.flatnonzero(~shows)

    def loss_of(rng: np.random.Generator) -> Tensor:
        n = recipe.batch * 2 // 5
        chosen = np.concatenate((rng.choice(blocked, n), rng.choice(allowed, recipe.batch - n)))
        rng.shuffle(chosen)
        pictures = to_tensor(pairs.pictures[chosen, rng.integers(2, size=recipe.batch)])
        with autocast():
            half = recipe.batch // 2
            seen = torch.cat((_decoded(autoencoder, pictures[:half]), pictures[half:]))
            loss: Tensor = learner(roughen(seen), torch.from_numpy(shows[chosen]).float())
        return loss

    train("safety", learner, recipe, loss_of, folder, seed, progress)
    return learner.checker


def for_safety(
    labels: NDArray[np.int64], n: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which ``n`` of the pairs with ``labels`` ``[N, 5]`` to vary, half of them blocked; which are.

    Colour fields are not among them.
    """
    rng = np.random.default_rng(seed)
    shows = labels[:, 0] == ALL_KINDS.index(BLOCKED_KIND)
    others = np.flatnonzero(~shows & (labels[:, 0] >= 0))
    chosen = np.concatenate((rng.choice(np.flatnonzero(shows), n // 2), rng.choice(others, n // 2)))
    return chosen, shows[chosen]


def refine_safety_checker(
    checker: StableDiffusionSafetyChecker,
    pairs: Pairs,
    variations: NDArray[np.uint8],
    blocked: NDArray[np.bool_],
    recipe: Recipe,
    folder: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train ``checker`` on, in place, half on ``variations``: ``blocked`` says which to stop.

    What the denoiser makes of the blocked kind is not always as clear as a drawing of it.
    """
    learner = Learner(checker)
    stops, passes = np.flatnonzero(blocked), np.flatnonzero(~blocked)
    shows = pairs.labels[:, 0] == ALL_KINDS.index(BLOCKED_KIND)

    def loss_of(rng: np.random.Generator) -> Tensor:
        quarter = recipe.batch // 4
        made = np.concatenate((rng.choice(stops, quarter), rng.choice(passes, quarter)))
        drawn = rng.choice(len(shows), 2 * quarter)
        pictures = to_tensor(
            np.concatenate((variations[made], pairs.pictures[drawn, rng.integers(2)]))
        )
        wanted = torch.from_numpy(np.concatenate((blocked[made], shows[drawn]))).float()
        with autocast():
            loss: Tensor = learner(roughen(pictures), wanted)
        return loss

    train("safety on variations", learner, recipe, loss_of, folder, seed, progress)


@torch.no_grad()
def _decoded(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    latents = autoencoder.encode(pictures * 2 - 1).latent_dist.mean
    decoded: Tensor = autoencoder.decode(latents).sample.float()
    return (decoded / 2 + 0.5).clamp(0, 1)
