"""The image encoder: two drawings of one scene are one thing, and other scenes are others."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from app.training.dataset import Pairs
from app.training.loop import Progress, Recipe, train
from app.training.world import ATTRIBUTES, SIZE

EMBEDDING = 64
NORM = 8.0
"""The length that embeddings have on average: a standard deviation of about 1 a number."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_TEMPERATURE = 0.1


def new_encoder() -> CLIPVisionModelWithProjection:
    """A small CLIP vision tower with random weights."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=SIZE,
            patch_size=8,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=EMBEDDING,
        )
    )


class Learner(nn.Module):
    """The encoder with one linear reader an attribute, which training alone uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = new_encoder()
        self.readers = nn.ModuleList(nn.Linear(EMBEDDING, n) for n in ATTRIBUTES.values())

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Loss for ``pictures`` ``[B, 2, 3, H, W]`` in [0, 1] and ``labels`` ``[B, 5]``.

        InfoNCE (van den Oord et al., 2018) between the two drawings of each scene, plus reading
        every attribute from the embedding, plus a pull of the norm towards :data:`NORM`.
        """
        embedding = embed(self.encoder, pictures.flatten(0, 1)).float()
        norm = embedding.norm(dim=-1, keepdim=True)
        first, second = (embedding / norm).unflatten(0, (-1, 2)).unbind(1)
        scores = first @ second.T / _TEMPERATURE
        same = torch.arange(len(scores))
        loss = functional.cross_entropy(scores, same) + functional.cross_entropy(scores.T, same)
        known = labels.repeat_interleave(2, 0)
        for i, reader in enumerate(self.readers):
            loss = loss + functional.cross_entropy(reader(embedding), known[:, i], ignore_index=-1)
        pulled: Tensor = loss + 0.02 * (norm - NORM).square().mean()
        return pulled


def embed(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """Un-normalised embeddings ``[B, EMBEDDING]`` of ``pictures`` ``[B, 3, H, W]`` in [0, 1]."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    embedding: Tensor = encoder((pictures - mean) / std).image_embeds
    return embedding


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 ``[..., H, W, 3]`` to float32 ``[..., 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, -3).float() / 255


def roughen(pictures: Tensor) -> Tensor:
    """Some of ``pictures`` ``[B, 3, H, W]`` blurred, all a little noisy: what decoding does."""
    blurred = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    kept = (torch.rand(len(pictures), 1, 1, 1) < 0.6).float()
    return kept * pictures + (1 - kept) * blurred + 0.02 * torch.randn_like(pictures)


def train_encoder(
    pairs: Pairs, recipe: Recipe, folder: Path, seed: int, progress: Progress
) -> CLIPVisionModelWithProjection:
    """Train an encoder; its embeddings are about :data:`NORM` long."""
    torch.manual_seed(seed)
    learner = Learner()

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(len(pairs.labels), recipe.batch, replace=False))
        pictures = to_tensor(pairs.pictures[chosen])
        rough = roughen(pictures.flatten(0, 1)).view_as(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = learner(rough, torch.from_numpy(pairs.labels[chosen]))
        return loss

    train("encoder", learner, recipe, loss_of, folder, seed, progress)
    return learner.encoder
