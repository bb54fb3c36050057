"""The built-in checkpoint from nothing: every stage in order, resumed where it was stopped."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch

from app.training.autoencoder import train_autoencoder
from app.training.dataset import Pairs, draw_pairs
from app.training.denoiser import (
    code_pairs,
    embed_pairs,
    encode_pairs,
    fit_latents,
    new_denoiser,
    train_denoiser,
)
from app.training.encoder import train_encoder
from app.training.export import export
from app.training.judge import train_judge
from app.training.loop import Progress, Recipe
from app.training.safety import for_safety, refine_safety_checker, train_safety_checker
from app.training.variations import vary

ENCODER = Recipe(steps=1700, batch=128, learning_rate=1e-3, warmup=0.03, cooldown=0.35)
AUTOENCODER = Recipe(
    steps=2400, batch=8, learning_rate=2e-3, warmup=0.02, cooldown=0.6, weight_decay=0.0
)
SAFETY = Recipe(steps=300, batch=64, learning_rate=3e-4)
SAFETY_ON_VARIATIONS = Recipe(steps=1700, batch=64, learning_rate=3e-4)
DENOISER_ON_CODES = Recipe(
    steps=815, batch=48, learning_rate=1e-3, warmup=0.02, cooldown=0.01, ema_decay=0.999
)
DENOISER = Recipe(
    steps=3600, batch=48, learning_rate=1e-3, warmup=0.01, cooldown=0.7, ema_decay=0.999
)
DENOISER_LONGER = Recipe(
    steps=2000, batch=48, learning_rate=6e-4, warmup=0.02, cooldown=0.9, ema_decay=0.999
)
JUDGE = Recipe(steps=800, batch=64, learning_rate=2e-3)


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of pairs and the training of each part; the defaults made the built-in one."""

    pairs: int = 30_000
    denoiser_width: int = 24
    denoiser_pairs: int = 14_000
    encoder: Recipe = field(default=ENCODER)
    autoencoder: Recipe = field(default=AUTOENCODER)
    safety: Recipe = field(default=SAFETY)
    varied: int = 2000
    safety_on_variations: Recipe = field(default=SAFETY_ON_VARIATIONS)
    denoiser_on_codes: Recipe = field(default=DENOISER_ON_CODES)
    denoiser: Recipe = field(default=DENOISER)
    denoiser_longer: Recipe = field(default=DENOISER_LONGER)
    judge: Recipe = field(default=JUDGE)

    def scaled(self, scale: float) -> Self:
        """The same with ``scale`` times the steps of every part."""
        return replace(
            self,
            encoder=self.encoder.scaled(scale),
            autoencoder=self.autoencoder.scaled(scale),
            safety=self.safety.scaled(scale),
            safety_on_variations=self.safety_on_variations.scaled(scale),
            denoiser_on_codes=self.denoiser_on_codes.scaled(scale),
            denoiser=self.denoiser.scaled(scale),
            denoiser_longer=self.denoiser_longer.scaled(scale),
            judge=self.judge.scaled(scale),
        )


def train_demo(plan: Plan, output: Path, work: Path, seed: int, progress: Progress) -> None:
    """Train all parts and write the checkpoint to ``output``.

    ``work`` keeps the drawings and the state of every part; a later call with the same arguments
    goes on from there.
    """
    state = work / "state"
    pairs = draw_pairs(work / "pairs", plan.pairs, seed, lambda n: progress("pairs", n, 0, 0.0))
    encoder = train_encoder(pairs, plan.encoder, state, seed, progress)
    autoencoder = train_autoencoder(pairs, plan.autoencoder, state, seed, progress)
    fit_latents(pairs, autoencoder)
    safety = train_safety_checker(pairs, encoder, autoencoder, plan.safety, state, seed, progress)
    some = Pairs(pairs.pictures[: plan.denoiser_pairs], pairs.labels[: plan.denoiser_pairs])
    latents = encode_pairs(some, autoencoder, work, progress)
    embeddings = embed_pairs(some, encoder, work, progress)
    torch.manual_seed(seed)
    denoiser = new_denoiser(plan.denoiser_width)
    for name, conditions, recipe in (
        ("denoiser on codes", code_pairs(some), plan.denoiser_on_codes),
        ("denoiser", embeddings, plan.denoiser),
        ("denoiser, longer", embeddings, plan.denoiser_longer),
    ):
        train_denoiser(name, denoiser, latents, conditions, recipe, state, seed, progress)
    chosen, blocked = for_safety(some.labels, plan.varied, seed)
    variations = vary(denoiser, autoencoder, embeddings[chosen, 0], seed, progress)
    refine_safety_checker(
        safety, pairs, variations, blocked, plan.safety_on_variations, state, seed, progress
    )
    export(encoder, autoencoder, denoiser, safety, output)


def train_demo_judge(plan: Plan, output: Path, work: Path, seed: int, progress: Progress) -> None:
    """Train the judge on the same drawings and write its weights to ``output``."""
    pairs = draw_pairs(work / "pairs", plan.pairs, seed, lambda n: progress("pairs", n, 0, 0.0))
    train_judge(pairs, plan.judge, work / "state", seed, progress).save(output)
