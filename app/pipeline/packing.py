"""Weights kept as oneDNN wants them, on a CPU.

torch's convolutions and linear layers hand oneDNN their weights as they are, and it brings all of
them into its own layout at every call: of a step of few rows that is a good part. Here that is done
once. float32 linear layers torch gives to MKL, which on an AMD EPYC takes 1.2 to 1.5 times as long.
The operators are those that ``torch.compile`` calls for the same reason.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.pipeline.devices import onednn_computes_in
from app.pipeline.simplify import GEGLU

_INPUTS = (2, 16)
"""Rows, and side in latents, that convolutions are packed for; others take the same layout. Without
any size oneDNN chooses one for 1 × 1 that took up to fifty times as long on an AMD EPYC."""


def pack(module: nn.Module) -> None:
    """Replace the convolutions and linear layers in ``module``, a CPU's, in place.

    Those of a type in which oneDNN does not compute here stay as they are.
    """
    for name, child in list(module.named_children()):
        packed = _replacement(child)
        if packed is not None:  # now its plain weights can go
            setattr(module, name, packed)
        else:
            pack(child)


def _replacement(layer: nn.Module) -> nn.Module | None:
    match layer:
        case nn.Conv2d() if onednn_computes_in(layer.weight.dtype) and _is_plain(layer):
            return _Convolution.of(layer)
        case nn.Linear() if onednn_computes_in(layer.weight.dtype):
            return _Linear.of(layer)
        case GEGLU() if onednn_computes_in(layer.proj.weight.dtype):
            return _GEGLU(layer)
    return None


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _Packed(nn.Module):
    """A layer without parameters: its weights are packed, and nothing is to convert or move them.

    Inputs of another type than its weights' it takes as the plain layer of that type would, which
    is slow, and for looking at how exact the packed one is. A copy shares the weights.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, arguments: tuple[Any, ...] = ()
    ) -> None:
        super().__init__()
        self.weight, self._arguments = weight, arguments
        self.bias = None if bias is None else bias.detach()  # so that it is no parameter

    def __deepcopy__(self, _: object) -> "_Packed":
        return type(self)(self.weight, self.bias, self._arguments)

    def takes(self, inputs: Tensor) -> bool:
        """They are of its weights' type."""
        return inputs.dtype == self.weight.dtype

    def forward(self, inputs: Tensor) -> Tensor:
        if self.takes(inputs):
            return self._packed(inputs)
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return self._plain(inputs, self.weight.to_dense().to(inputs.dtype), bias)

    def _packed(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def _plain(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class _Convolution(_Packed):
    """A convolution. Its arguments are padding, stride, dilation and groups."""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> "_Convolution":
        """The same as ``layer``."""
        pairs = layer.padding, layer.stride, layer.dilation
        arguments = (*(list(cast(tuple[int, int], each)) for each in pairs), layer.groups)
        rows, side = _INPUTS
        inputs = [rows, layer.in_channels, side, side]
        weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight, *arguments, inputs)
        return cls(weight, layer.bias, arguments)

    def _packed(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs, self.weight, self.bias, *self._arguments, "none", [], ""
        )
        return outputs

    def _plain(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding, stride, dilation, groups = self._arguments
        return torch.conv2d(inputs, weight, bias, stride, padding, dilation, groups)


class _Linear(_Packed):
    """A linear layer."""

    @classmethod
    def of(cls, layer: nn.Linear) -> "_Linear":
        """The same as ``layer``."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(layer.weight, None), layer.bias)

    def _packed(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.weight, self.bias, "none", [], ""
        )
        return outputs

    def _plain(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(inputs, weight, bias)


class _GEGLU(nn.Module):
    """A gated linear layer, in two products that end in the gates' GELU and in the gating."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        weights = layer.proj.weight.detach().chunk(2)
        biases = (None, None) if layer.proj.bias is None else layer.proj.bias.detach().chunk(2)
        halves = zip(weights, biases, strict=True)
        self._values, self._gates = (
            _Linear(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None), bias)
            for weight, bias in halves
        )

    def forward(self, inputs: Tensor) -> Tensor:
        values, gates = self._values, self._gates
        if not gates.takes(inputs):
            plain: Tensor = functional.gelu(gates(inputs)).mul_(values(inputs))
            return plain
        opened = torch.ops.mkldnn._linear_pointwise(
            inputs, gates.weight, gates.bias, "gelu", [], "none"
        )
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            inputs, opened, values.weight, values.bias, "mul"
        )
        return outputs
