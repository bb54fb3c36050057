"""What is a constant of a step is computed once, and not at every step.

The condition is a single token. A softmax over one key is 1 whatever the query, so every
cross-attention layer outputs ``to_out(to_v(token))``, the same vector at every position. Folding
takes those two projections out of the UNet, drops the query, the key and the norm before them, and
lets the UNet take the vectors themselves in the token's place.

What a UNet makes of its timestep depends on nothing else. Folding takes that out of it as well.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from app.errors import CheckpointError
from app.pipeline.devices import sent

Fold = Callable[[Tensor], Tensor]
"""An embedding ``[D]`` to a row of the folded UNet's ``encoder_hidden_states``.

``[1, channels]``, all blocks' channels one after the other, in the UNet's dtype and on its device.
Zeros give ``to_out``'s biases.
"""


class _Slice(nn.Module):
    """Stands where cross-attention stood: hands back its own slice of the condition."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self._start, self._stop = start, stop

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        """``[rows, 1, channels]`` to ``[rows, 1, own]``, which broadcasts over the positions."""
        return encoder_hidden_states[..., self._start : self._stop]


def fold(unet: nn.Module) -> Fold:
    """Fold the cross-attention of ``unet`` in place; gives the function that makes conditions.

    Raises :class:`CheckpointError` where the UNet conditions in some other way.
    """
    blocks: list[Any] = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    blocks = [block for block in blocks if block.attn2 is not None]
    _check_foldable(unet, blocks)
    projections = [(block.attn2.to_v, block.attn2.to_out[0]) for block in blocks]
    start = 0
    for block, (_, out) in zip(blocks, projections, strict=True):
        stop = start + out.out_features
        block.attn2, block.norm2 = _Slice(start, stop), nn.Identity()
        start = stop
    return partial(_condition, projections)


class TimeFold(nn.Module):
    """What a UNet makes of timesteps before its first block, taken out of ``unet`` in place.

    From then on the UNet takes that as its ``timestep_cond``, and reads no timestep.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self._sinusoids, self._embedding = unet.time_proj, unet.time_embedding
        unet.time_proj, unet.time_embedding = nn.Identity(), _Given()

    def forward(self, timesteps: Tensor) -> Tensor:
        """Timesteps ``float32 [N]`` to ``[N, channels]`` in the UNet's dtype."""
        dtype = next(self._embedding.parameters()).dtype
        embedded: Tensor = self._embedding(self._sinusoids(timesteps).to(dtype))
        return embedded


class _Given(nn.Module):
    """Stands where the time embedding stood: hands on what is given for it."""

    def forward(self, _: Tensor, condition: Tensor) -> Tensor:
        return condition


@torch.inference_mode()
def _condition(projections: list[tuple[Any, Any]], embedding: Tensor) -> Tensor:
    value = projections[0][0].weight
    token = sent(embedding.to(value.dtype), value.device)[None]
    return torch.cat([out(to_v(token)) for to_v, out in projections], dim=-1)


def _check_foldable(unet: nn.Module, blocks: list[Any]) -> None:
    cross = {m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention}
    plain = [block for block in blocks if block.norm_type == "layer_norm"]
    if not blocks or plain != blocks or cross != {block.attn2 for block in blocks}:
        raise CheckpointError(
            "the checkpoint's UNet takes its condition in another way than Stable Diffusion 1 "
            "does: image variations need cross-attention in plain transformer blocks"
        )
