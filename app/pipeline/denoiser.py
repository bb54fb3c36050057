"""The UNet call of a step. What runs it in another way is another function of this shape."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Denoiser(Protocol):
    """Predicts the model outputs of one step, on the tensors' device and without waiting for it."""

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        """``float32 [rows, C, h, w]``, ``float32 [rows]``, ``[rows, 1, channels]`` → outputs.

        The outputs are ``float32 [rows, C, h, w]``; the conditions are in the UNet's own dtype.
        """


def eager(unet: Any) -> Denoiser:
    """A folded UNet, called as it is."""

    def predict(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        inputs = latents.to(unet.dtype).contiguous(memory_format=torch.channels_last)
        [outputs] = unet(inputs, timesteps, encoder_hidden_states=conditions, return_dict=False)
        return outputs.float()  # type: ignore[no-any-return]

    return predict
