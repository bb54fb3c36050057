"""The image encoder: a picture's embedding says what it shows, and not where."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from app.training.dataset import Pairs
from app.training.loop import Progress, Recipe, autocast, train
from app.training.world import ATTRIBUTES, SIZE

EMBEDDING = 64
NORM = 8.0
"""The length of a drawing's embedding: a standard deviation of about 1 a number."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_SHIFT = 6
_LENGTH = NORM / len(ATTRIBUTES) ** 0.5
_DIRECTIONS = np.linalg.qr(np.random.default_rng(64).normal(size=(EMBEDDING, EMBEDDING))).Q


def new_encoder() -> CLIPVisionModelWithProjection:
    """A small CLIP vision tower with random weights."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=SIZE,
            patch_size=12,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            projection_dim=EMBEDDING,
        )
    )


def codes(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """The wanted embedding of each of ``pictures`` ``[B, H, W, 3]``: ``[B, EMBEDDING]``.

    Every value of every attribute has a direction of its own, at right angles to all others, and
    a drawing's code is the sum of its five; all are :data:`NORM` long. A colour field, whose
    ``labels`` are −1, is told by the mean and the spread of its colours in seven directions more.
    """
    hot = np.concatenate(
        [labels[:, i, None] == np.arange(n) for i, n in enumerate(ATTRIBUTES.values())], 1
    )
    colours = pictures.reshape(len(pictures), -1, 3) / 255
    ones = np.ones((len(pictures), 1))
    told = np.concatenate((ones, 2 * colours.mean(1) - 1, 4 * colours.std(1)), 1)
    told = np.where(labels[:, :1] < 0, told, 0)
    parts = np.concatenate((hot * _LENGTH, told * _LENGTH), 1)
    found: NDArray[np.float32] = (parts @ _DIRECTIONS[: parts.shape[1]]).astype(np.float32)
    return found


class Learner(nn.Module):
    """The encoder and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = new_encoder()
        self.directions = torch.tensor(_DIRECTIONS * _LENGTH, dtype=torch.float32)

    def forward(self, pictures: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        """Loss for ``pictures`` ``[B, 3, H, W]`` in [0, 1] and ``labels`` ``[B, 5]``.

        The squared distance from the ``wanted`` codes, and the cross-entropy of each attribute
        read along its directions.
        """
        embedding = embed(self.encoder, pictures).float()
        loss: Tensor = 0.1 * (embedding - wanted).square().sum(1).mean()
        read = (embedding @ self.directions.T)[:, : sum(ATTRIBUTES.values())]
        for i, scores in enumerate(torch.split(read, list(ATTRIBUTES.values()), 1)):
            loss = loss + functional.cross_entropy(scores, labels[:, i], ignore_index=-1)
        return loss


def embed(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """Un-normalised embeddings ``[B, EMBEDDING]`` of ``pictures`` ``[B, 3, H, W]`` in [0, 1]."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    embedding: Tensor = encoder((pictures - mean) / std).image_embeds
    return embedding


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 ``[..., H, W, 3]`` to float32 ``[..., 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).movedim(-1, -3).float() / 255


def roughen(pictures: Tensor) -> Tensor:
    """Some of ``pictures`` ``[B, 3, H, W]`` blurred, all a little noisy: what decoding does."""
    blurred = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    kept = (torch.rand(len(pictures), 1, 1, 1) < 0.6).float()
    return kept * pictures + (1 - kept) * blurred + 0.02 * torch.randn_like(pictures)


def shift(pictures: Tensor) -> Tensor:
    """Each half of ``pictures`` moved by up to six pixels, one of them mirrored."""
    padded = functional.pad(pictures, (_SHIFT,) * 4, mode="replicate")
    halves = []
    for half, flip in zip(padded.chunk(2), (False, True), strict=False):
        x, y = torch.randint(2 * _SHIFT + 1, (2,)).tolist()
        moved = half[:, :, y : y + pictures.shape[2], x : x + pictures.shape[3]]
        halves.append(moved.flip(3) if flip else moved)
    return torch.cat(halves)


def train_encoder(
    pairs: Pairs, recipe: Recipe, folder: Path, seed: int, progress: Progress
) -> CLIPVisionModelWithProjection:
    """Train an encoder on roughened, shifted drawings; its embeddings approach :func:`codes`."""
    torch.manual_seed(seed)
    learner = Learner()
    learner.encoder.set_attn_implementation("eager")  # over so few patches faster than SDPA

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = rng.choice(len(pairs.labels), recipe.batch)
        pictures = pairs.pictures[chosen, rng.integers(2, size=recipe.batch)]
        labels = pairs.labels[chosen]
        wanted = torch.from_numpy(codes(pictures, labels))
        rough = roughen(shift(to_tensor(pictures)))
        with autocast():
            loss: Tensor = learner(rough, torch.from_numpy(labels), wanted)
        return loss

    train("encoder", learner, recipe, loss_of, folder, seed, progress)
    return learner.encoder
