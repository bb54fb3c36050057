"""One training loop for every part: seeded by the step, saved as it goes, resumed where it was."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from app.pipeline.devices import native_cpu_dtype

Progress = Callable[[str, int, int, float], None]
"""Told the part's name, the steps done, the steps in all and the running mean of the loss."""

_SAVE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Length and speed of one part's training.

    The learning rate rises over ``warmup`` of the steps to ``learning_rate``, stays there, and
    over the last ``cooldown`` of them falls along half a cosine to a hundredth.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.05
    cooldown: float = 0.95
    weight_decay: float = 0.01
    ema_decay: float | None = None

    def scaled(self, scale: float) -> Self:
        """The same with ``scale`` times the steps, at least one."""
        return replace(self, steps=max(1, round(self.steps * scale)))

    def rate(self, step: int) -> float:
        """The share of ``learning_rate`` used at ``step``."""
        done = step / self.steps
        rise = min(1.0, (step + 1) / (self.warmup * self.steps + 1))
        fall = max(0.0, (done - (1 - self.cooldown)) / self.cooldown)
        return rise * (0.01 + 0.99 * (1 + math.cos(math.pi * fall)) / 2)


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 on a GPU, or where the processor has it; elsewhere, at tenfold cost, float32."""
    enabled = device != "cpu" or native_cpu_dtype() == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def train(
    name: str,
    module: nn.Module,
    recipe: Recipe,
    loss_of: Callable[[np.random.Generator], Tensor],
    folder: Path,
    seed: int,
    progress: Progress,
) -> None:
    """Train ``module`` in place until ``recipe.steps`` are done, those in ``folder`` counted.

    ``loss_of`` draws its batch from the generator it is given, which depends on ``seed`` and the
    step alone: a resumed run sees what an uninterrupted one sees. With ``ema_decay`` the module
    ends with the averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = list(module.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    ema = _average(parameters, recipe.ema_decay)
    state = _State(folder / f"{name}.pt", module, optimiser, ema)
    module.train()
    mean, saved = 0.0, time.monotonic()
    for step in range(state.load(), recipe.steps):
        torch.manual_seed(hash((seed, step)) % 2**32)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * recipe.rate(step)
        loss = loss_of(np.random.default_rng((seed, step)))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if ema:
            ema.step(parameters)
        mean += (loss.item() - mean) / min(step + 1, 100)
        progress(name, step + 1, recipe.steps, mean)
        if time.monotonic() - saved > _SAVE_SECONDS or step + 1 == recipe.steps:
            state.save(step + 1)
            saved = time.monotonic()
    if ema:
        ema.copy_to(parameters)
    module.eval()


def _average(parameters: Iterable[nn.Parameter], decay: float | None) -> EMAModel | None:
    return EMAModel(parameters, decay=decay, use_ema_warmup=True, power=0.75) if decay else None


@dataclass(frozen=True, slots=True)
class _State:
    """Everything a run needs to go on, in one file that is replaced whole."""

    path: Path
    module: nn.Module
    optimiser: torch.optim.Optimizer
    ema: EMAModel | None

    def load(self) -> int:
        """Restore what was saved, if anything; the number of steps done."""
        if not self.path.exists():
            return 0
        saved = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(saved["module"])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
        return int(saved["step"])

    def save(self, step: int) -> None:
        content = {
            "step": step,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }
        half = self.path.with_suffix(".half")
        torch.save(content, half)
        half.replace(self.path)
