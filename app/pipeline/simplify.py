"""The folded UNet with what does nothing left out and what can be one kernel made one.

diffusers' blocks serve many architectures. In Stable Diffusion 1's they divide by 1.0 after every
block, project the same timestep once in each of 22 residual blocks, queries, keys and values apart,
and copy channels_last tensors to another layout and back around every transformer. The blocks here
have the same weights and compute the same numbers, up to rounding, and add in place what nobody
else holds.
"""

import logging
from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from app.pipeline.attention import SelfAttention

logger = logging.getLogger(__name__)


def simplify(unet: Any) -> None:
    """Replace blocks of a folded UNet in place; one with other blocks stays as it is.

    Where attention was set to run in slices it stays diffusers' own.
    """
    residuals = [m for m in unet.modules() if isinstance(m, ResnetBlock2D)]
    transformers = [m for m in unet.modules() if isinstance(m, Transformer2DModel)]
    if not (all(map(_is_plain, residuals)) and all(map(_is_continuous, transformers))):
        logger.info("The UNet has other blocks than Stable Diffusion 1, and is run as it is")
        return
    unet.time_embedding = _TimeProjections(unet.time_embedding, residuals)
    replaced: dict[nn.Module, nn.Module] = {}
    start = 0
    for residual in residuals:
        stop = start + residual.out_channels
        replaced[residual] = _Residual(residual, start, stop)
        start = stop
    replaced |= {each: _Transformer(each) for each in transformers}
    _replace(unet, replaced)


def _replace(module: nn.Module, replaced: dict[nn.Module, nn.Module]) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])


def _is_plain(block: ResnetBlock2D) -> bool:
    return (
        block.time_embedding_norm == "default"
        and block.time_emb_proj is not None
        and isinstance(block.nonlinearity, nn.SiLU)
        and not block.skip_time_act
        and block.upsample is None
        and block.downsample is None
        and block.output_scale_factor == 1
    )


def _is_continuous(transformer: Transformer2DModel) -> bool:
    geglu = all("GEGLU" in type(each.ff.net[0]).__name__ for each in transformer.transformer_blocks)
    return bool(transformer.is_input_continuous) and geglu


class _TimeProjections(nn.Module):
    """The time embedding with the projections of all residual blocks behind it, as one layer.

    It stands in ``time_embedding``'s place and gives ``[rows, Σ channels]``. Each block adds its
    slice of that to its first convolution's output: so the bias of that convolution, which would be
    a kernel of its own on a GPU, is taken from it and added here.
    """

    def __init__(self, embedding: nn.Module, blocks: list[ResnetBlock2D]) -> None:
        super().__init__()
        self._embedding = embedding
        projections = [cast(nn.Linear, block.time_emb_proj) for block in blocks]
        self._projections = _joined(projections)
        self._projections.bias.add_(torch.cat([_taken_bias(block.conv1) for block in blocks]))

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        embedded = functional.silu(self._embedding(sample, condition), inplace=True)
        return cast(Tensor, self._projections(embedded))


def _taken_bias(layer: nn.Conv2d) -> Tensor:
    bias = cast(Tensor, layer.bias).detach()
    layer.bias = None
    return bias


def _joined(layers: list[nn.Linear]) -> nn.Linear:
    """One layer whose outputs are those of ``layers`` one after the other."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return _linear(torch.cat(weights), torch.cat(biases) if biases else None)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


class _Residual(nn.Module):
    """A plain ``ResnetBlock2D``, which finds its projected timestep in a slice of all."""

    def __init__(self, block: ResnetBlock2D, start: int, stop: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.shortcut = block.conv_shortcut
        self._start, self._stop = start, stop

    def forward(self, input_tensor: Tensor, temb: Tensor, *_: object) -> Tensor:
        hidden: Tensor = self.conv1(functional.silu(self.norm1(input_tensor), inplace=True))
        hidden += temb[:, self._start : self._stop, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden), inplace=True))
        hidden += input_tensor if self.shortcut is None else self.shortcut(input_tensor)
        return hidden


class _Transformer(nn.Module):
    """A ``Transformer2DModel`` over a picture's positions that keeps to channels_last.

    Its 1×1 convolutions are the linear layers they are over such a tensor.
    """

    def __init__(self, transformer: Transformer2DModel) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.proj_in = _as_linear(transformer.proj_in)
        self.blocks = nn.ModuleList(map(_Block, transformer.transformer_blocks))
        self.proj_out = _as_linear(transformer.proj_out)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> tuple[Tensor]:
        rows, channels, height, width = hidden_states.shape
        tokens = self.norm(hidden_states).permute(0, 2, 3, 1).reshape(rows, -1, channels)
        tokens = self.proj_in(tokens)
        for block in self.blocks:
            tokens = block(tokens, encoder_hidden_states)
        output: Tensor = self.proj_out(tokens).view(rows, height, width, channels)
        output = output.permute(0, 3, 1, 2)
        output += hidden_states
        return (output,)


def _as_linear(layer: nn.Module) -> nn.Linear:
    """A 1×1 convolution as a linear layer with the same weights."""
    if isinstance(layer, nn.Linear):
        return layer
    convolution = cast(nn.Conv2d, layer)
    return _linear(convolution.weight.flatten(1).contiguous(), convolution.bias)


class _Block(nn.Module):
    """A folded ``BasicTransformerBlock``."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__()
        self.norm1, self.norm3 = block.norm1, block.norm3
        self.attention = _SelfAttention(block.attn1) if _can_fuse(block.attn1) else block.attn1
        self.condition = block.attn2  # after folding a slice of the condition, or nothing
        self.gated, self.out = GEGLU(block.ff.net[0].proj), block.ff.net[2]

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        hidden: Tensor = self.attention(self.norm1(tokens))
        hidden += tokens
        if self.condition is not None:
            hidden += self.condition(hidden, condition)
        hidden += self.out(self.gated(self.norm3(hidden)))
        return hidden


class GEGLU(nn.Module):
    """A linear layer whose outputs' first half is multiplied by the GELU of the second."""

    def __init__(self, proj: nn.Linear) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, inputs: Tensor) -> Tensor:
        """``[…, channels]`` to half as wide as the layer's outputs."""
        values, gates = self.proj(inputs).chunk(2, dim=-1)
        return functional.gelu(gates).mul_(values)


def _can_fuse(attention: Attention) -> bool:
    return (
        isinstance(attention.processor, AttnProcessor2_0)
        and attention.rescale_output_factor == 1
        and not attention.residual_connection
        and all(
            getattr(attention, name, None) is None
            for name in ("spatial_norm", "group_norm", "norm_q", "norm_k")
        )
    )


class _SelfAttention(nn.Module):
    """Self-attention whose queries, keys and values come out of one matrix product."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attend = SelfAttention(attention.heads)
        self.qkv = _joined([attention.to_q, attention.to_k, attention.to_v])
        self.out = attention.to_out[0]

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.attend(self.qkv(tokens))))
