"""The judge: reads a drawing's attributes; trained apart from everything it judges."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from app.training.dataset import Pairs
from app.training.encoder import roughen, to_tensor
from app.training.loop import Progress, Recipe, autocast, train
from app.training.world import ATTRIBUTES

WEIGHTS = Path(__file__).with_suffix(".safetensors")


class Judge(nn.Module):
    """A small convolutional classifier of all five attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(3, 24, 2),
            *_convolution(24, 48, 2),
            *_convolution(48, 64, 1),
            *_convolution(64, 96, 2),
            *_convolution(96, 128, 1),
        )
        self.readers = nn.ModuleList(nn.Linear(2 * 128, n) for n in ATTRIBUTES.values())

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Scores of each attribute's values for ``pictures`` ``[B, 3, H, W]`` in [0, 1]."""
        places = self.body(pictures * 2 - 1)
        seen = torch.cat((places.mean((2, 3)), places.amax((2, 3))), 1)
        return [reader(seen) for reader in self.readers]

    @torch.inference_mode()
    def read(self, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The attributes ``[B, 5]`` of ``pictures``, uint8 ``[B, H, W, 3]``."""
        scores = self(to_tensor(pictures))
        return torch.stack([score.argmax(1) for score in scores], 1).numpy()

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "Judge":
        """The judge that comes with the package."""
        judge = cls()
        judge.load_state_dict(load_file(path))
        return judge.eval()

    def save(self, path: Path = WEIGHTS) -> None:
        """Write the weights in half precision."""
        content = {name: value.half() for name, value in self.state_dict().items()}
        save_file(content, path)


def _convolution(channels: int, filters: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )


class Learner(nn.Module):
    """The judge and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge()

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of every attribute, for ``labels`` ``[B, 5]``."""
        scores = zip(self.judge(pictures), labels.unbind(1), strict=True)
        losses = [functional.cross_entropy(s.float(), known) for s, known in scores]
        return torch.stack(losses).sum()


def train_judge(pairs: Pairs, recipe: Recipe, folder: Path, seed: int, progress: Progress) -> Judge:
    """Train a judge on roughened drawings."""
    torch.manual_seed(seed)
    learner = Learner()
    drawings = np.flatnonzero(pairs.labels[:, 0] >= 0)

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = np.sort(rng.choice(drawings, recipe.batch, replace=False))
        pictures = roughen(to_tensor(pairs.pictures[chosen, rng.integers(2)]))
        with autocast():
            loss: Tensor = learner(pictures, torch.from_numpy(pairs.labels[chosen]))
        return loss

    train("judge", learner, recipe, loss_of, folder, seed, progress)
    return learner.judge
