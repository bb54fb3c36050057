"""The shortest time that a step could take on a GPU, by its makers' figures."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class Peak:
    """A GPU's floating-point operations a second in half precision, dense, and bytes a second."""

    flops: float
    bandwidth: float


PEAKS = {
    "H200": Peak(989e12, 4.8e12),
    "H100 PCIe": Peak(756e12, 2.0e12),
    "H100": Peak(989e12, 3.35e12),
    "A100": Peak(312e12, 2.0e12),
    "L40S": Peak(362e12, 0.864e12),
    "L4": Peak(121e12, 0.3e12),
    "4090": Peak(165e12, 1.008e12),
}
"""By a part of the name that CUDA gives; the first that fits is meant."""


def peak(name: str) -> Peak | None:
    """The peak of a GPU of this name, or none where it is not in the table."""
    return next((found for part, found in PEAKS.items() if part in name), None)


def flops(unet: Any, rows: int, side: int) -> int:
    """Floating-point operations of diffusers' own ``unet`` for a step of so many rows."""
    with torch.device("meta"):
        twin = type(unet).from_config(unet.config).eval()
        inputs = torch.empty(rows, unet.config.in_channels, side, side), torch.empty(rows)
        tokens = torch.empty(rows, 1, unet.config.cross_attention_dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*inputs, encoder_hidden_states=tokens)
    return int(counter.get_total_flops())


def shortest(found: Peak, operations: int, weights: int) -> float:
    """Seconds of so many operations, or of reading so many bytes of weights if that takes longer.

    What else is read and written, and what is launched, takes more: no kernels reach it.
    """
    return max(operations / found.flops, weights / found.bandwidth)
