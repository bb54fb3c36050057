"""The UNet call of a step. What runs it in another way is another function of this shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Predicts the model outputs of one step, on the tensors' device and without waiting for it.

Latents ``float32 [rows, C, h, w]`` and, folded and in the UNet's own dtype, timesteps ``[rows,
channels]`` and conditions ``[rows, 1, channels]`` → outputs ``float32 [rows, C, h, w]``, which the
next call may overwrite.
"""


def eager(unet: Any) -> Denoiser:
    """A folded UNet, called as it is."""
    dtype = unet.dtype

    def predict(latents: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
        inputs = latents.to(dtype).contiguous(memory_format=torch.channels_last)
        unread = times[:, 0]  # in the place of what was folded into `times`
        [outputs] = unet(inputs, unread, conditions, timestep_cond=times, return_dict=False)
        return outputs.float()  # type: ignore[no-any-return]

    return predict
