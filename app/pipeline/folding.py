"""Cross-attention over a single token, folded into a constant.

The condition is one token, softmax over one key is 1, so every cross-attention layer returns
``to_out(to_v(token))`` at every position, whatever the query: its norm, query, key and softmax can
go. What remains is one vector per block and condition, computed once when a request arrives.
"""

from collections.abc import Sequence
from typing import Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from app.errors import CheckpointError


class Folding(nn.Module):
    """The value and output projections of every cross-attention layer of one UNet."""

    def __init__(self, projections: Sequence[nn.Module]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(projections)

    @classmethod
    def fold(cls, unet: UNet2DConditionModel) -> Self:
        """Take the cross-attention out of ``unet``, in place.

        Afterwards ``unet`` wants, in place of the token ``[rows, 1, cross_attention_dim]``, what
        :meth:`forward` makes of it. Raises :class:`CheckpointError` for blocks of another kind.
        """
        projections, start = [], 0
        for name, block in unet.named_modules():
            if getattr(block, "attn2", None) is None:
                continue
            if block.only_cross_attention or block.attn2.norm_cross is not None:
                raise CheckpointError(f"the UNet's {name} is not a plain transformer block")
            projections.append(nn.Sequential(block.attn2.to_v, block.attn2.to_out[0]))
            width = block.attn2.to_out[0].out_features
            block.attn2, block.norm2 = _Constant(start, width), nn.Identity()
            start += width
        return cls(projections)

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens`` ``[B, cross_attention_dim]`` to constants ``[B, Σ layers' channels]``."""
        return torch.cat([project(tokens) for project in self.projections], dim=-1)


class _Constant(nn.Module):
    """Stands where a cross-attention layer was: returns its slice of the constants."""

    def __init__(self, start: int, width: int) -> None:
        super().__init__()
        self._slice = slice(start, start + width)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        """The slice, ``[rows, 1, width]``; it broadcasts over the positions."""
        return encoder_hidden_states[..., self._slice]
