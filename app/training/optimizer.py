"""The optimizer of a fine-tuning."""

from typing import Any

import torch
from torch import Tensor

from app.training.errors import CannotStart
from app.training.recipe import Optimizer, Settings


def new_optimizer(unet: Any, settings: Settings) -> torch.optim.Optimizer:
    """AdamW over two groups: cross-attention, and all other weights.

    Raises :class:`CannotStart` where the library for it is not installed.
    """
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in unet.named_parameters():
        groups["attn2" not in name].append(parameter)
    kind: Any = torch.optim.AdamW
    if settings.optimizer is Optimizer.ADAMW_8BIT:
        try:
            from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415
        except ImportError as error:
            raise CannotStart(
                "--optimizer adamw8bit needs the package bitsandbytes: install it, or take adamw"
            ) from error
        kind = AdamW8bit
    optimizer: torch.optim.Optimizer = kind(
        [{"params": group} for group in groups], lr=0.0, weight_decay=settings.weight_decay
    )
    return optimizer
