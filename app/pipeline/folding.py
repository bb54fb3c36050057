"""Cross-attention over one token is a constant, so it is computed once and not at every step.

The condition is a single token. A softmax over one key is 1 whatever the query, so every
cross-attention layer outputs ``to_out(to_v(token))``, the same vector at every position. Folding
takes those two projections out of the UNet, drops the query, the key and the norm before them, and
lets the UNet take the vectors themselves in the token's place.
"""

from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from app.errors import CheckpointError


class Folding:
    """The projections taken out of a folded UNet, in the order of its blocks."""

    def __init__(self, attentions: list[Any]) -> None:
        self._projections = [(attention.to_v, attention.to_out[0]) for attention in attentions]

    @property
    def channels(self) -> int:
        """The length of a condition: the sum of all blocks' channels."""
        return sum(out.out_features for _, out in self._projections)

    @torch.inference_mode()
    def condition(self, embedding: Tensor) -> Tensor:
        """``[D]`` to ``[1, channels]``, in the UNet's dtype and on its device.

        A row of the folded UNet's ``encoder_hidden_states``. Zeros give ``to_out``'s biases.
        """
        value = self._projections[0][0].weight
        token = embedding.to(value.device, value.dtype)[None]
        return torch.cat([out(to_v(token)) for to_v, out in self._projections], dim=-1)


class _Slice(nn.Module):
    """Stands where cross-attention stood: hands back its own slice of the condition."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self._start, self._stop = start, stop

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        """``[rows, 1, channels]`` to ``[rows, 1, own]``, which broadcasts over the positions."""
        return encoder_hidden_states[..., self._start : self._stop]


def fold(unet: nn.Module) -> Folding:
    """Fold the cross-attention of ``unet`` in place.

    Raises :class:`CheckpointError` where the UNet conditions in some other way.
    """
    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    blocks = [block for block in blocks if block.attn2 is not None]
    _check_foldable(unet, blocks)
    folding = Folding([block.attn2 for block in blocks])
    start = 0
    for block in blocks:
        stop = start + cast(int, block.attn2.to_out[0].out_features)
        block.attn2, block.norm2 = _Slice(start, stop), nn.Identity()
        start = stop
    return folding


def _check_foldable(unet: nn.Module, blocks: list[Any]) -> None:
    cross = {m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention}
    plain = [block for block in blocks if block.norm_type == "layer_norm"]
    if not blocks or plain != blocks or cross != {block.attn2 for block in blocks}:
        raise CheckpointError(
            "the checkpoint's UNet takes its condition in another way than Stable Diffusion 1 "
            "does: image variations need cross-attention in plain transformer blocks"
        )
