"""Settings of a fine-tuning, and the recipes of the published models as presets."""

from dataclasses import dataclass
from enum import StrEnum

from app.training.errors import CannotStart


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run: its share of the steps, and the learning rate in it.

    The rate rises over ``warmup`` steps to ``learning_rate`` and stays there. With
    ``only_cross_attention`` all other weights rest.
    """

    share: float
    learning_rate: float
    warmup: int
    only_cross_attention: bool = False


class Preset(StrEnum):
    """Recipes by name."""

    CARD = "card"
    V2 = "v2"


class Optimizer(StrEnum):
    """Optimizers by name; the second is of the package bitsandbytes."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw8bit"


class Precision(StrEnum):
    """What the UNet's layers compute in; its weights stay float32."""

    NO = "no"
    BF16 = "bf16"
    FP16 = "fp16"


STAGES = {
    Preset.CARD: (Stage(1.0, 1e-4, 1000),),
    Preset.V2: (
        Stage(46 / 96, 1e-5, 10_000, only_cross_attention=True),
        Stage(50 / 96, 1e-5, 5000),
    ),
}
"""Those of the model card; and version 2's 46,000 and 50,000 steps, as shares of a run."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides what a run's weights become, given its start and its data.

    ``batch_size`` is of one process, ``accumulation`` the batches of one step; ``zeroed`` is the
    probability of a condition of zeros; ``min_snr`` weights the loss by min(SNR, it) / SNR.
    """

    steps: int
    stages: tuple[Stage, ...] = STAGES[Preset.CARD]
    batch_size: int = 6
    accumulation: int = 1
    seed: int = 0
    ema_decay: float | None = 0.9999
    zeroed: float = 0.1
    min_snr: float | None = None
    optimizer: Optimizer = Optimizer.ADAMW
    weight_decay: float = 0.01
    most_norm: float = 1.0
    mixed_precision: Precision = Precision.NO
    gradient_checkpointing: bool = False

    def rates(self, step: int) -> tuple[float, float]:
        """The learning rates of cross-attention and of all other weights at ``step``, from 0."""
        begin = 0
        for i, stage in enumerate(self.stages):
            last = i + 1 == len(self.stages)
            end = self.steps if last else begin + round(stage.share * self.steps)
            if step < end or last:
                break
            begin = end
        rate = stage.learning_rate * min(1.0, (step - begin + 1) / max(1, stage.warmup))
        return rate, 0.0 if stage.only_cross_attention else rate


def stages_of(preset: Preset, learning_rate: float | None, warmup: int | None) -> tuple[Stage, ...]:
    """The stages of ``preset`` with the rate and the warm-up that are given in place of its own."""
    return tuple(
        Stage(
            stage.share,
            stage.learning_rate if learning_rate is None else learning_rate,
            stage.warmup if warmup is None else warmup,
            stage.only_cross_attention,
        )
        for stage in STAGES[preset]
    )


def check_same(before: dict[str, object], now: dict[str, object]) -> None:
    """Raise :class:`CannotStart` where a resumed run would not be the run that was stopped.

    Its number of steps may grow if the recipe has one stage: steps done stay what they were.
    """
    stages = now["stages"]
    free = {"steps"} if isinstance(stages, list) and len(stages) == 1 else set()
    for key, value in now.items():
        if key not in free and before.get(key) != value:
            raise CannotStart(
                f"--resume goes on with the same settings: {key} was {before.get(key)!r}, and not "
                f"{value!r}; give the same, or begin in another folder (--out)"
            )
