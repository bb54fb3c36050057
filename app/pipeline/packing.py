"""Weights kept as oneDNN wants them, on a CPU.

torch's convolutions and linear layers hand oneDNN their weights as they are, and it brings all of
them into its own layout at every call: of a step of few rows that is a good part. Here that is done
once. The operators are those that ``torch.compile`` calls for the same reason.
"""

import platform
from typing import Any, cast

import torch
from torch import Tensor, nn

_X86 = ("x86_64", "AMD64")

_INPUTS = (2, 16)
"""Rows, and side in latents, that convolutions are packed for; others take the same layout. Without
any size oneDNN chooses one for 1 × 1 that took up to fifty times as long on an AMD EPYC."""


def pack(module: nn.Module) -> None:
    """Replace the convolutions and bfloat16 linear layers of ``module``, a CPU's, in place.

    Linear layers of float32 are not oneDNN's. Where it does not compute in bfloat16, or is not
    there, nothing is done.
    """
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if platform.machine() not in _X86 or not there:
        return
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.weight.dtype in dtypes and _is_plain(child):
                setattr(parent, name, _Convolution.of(child))
            elif isinstance(child, nn.Linear) and child.weight.dtype in dtypes[1:]:
                setattr(parent, name, _Linear.of(child))


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
        self._weight, self._arguments = weight, arguments
        self._bias = None if bias is None else bias.detach()  # so that it is no parameter

    def __deepcopy__(self, _: object) -> "_Packed":
        return type(self)(self._weight, self._bias, self._arguments)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == self._weight.dtype:
            return self._packed(inputs)
        bias = None if self._bias is None else self._bias.to(inputs.dtype)
        return self._plain(inputs, self._weight.to_dense().to(inputs.dtype), bias)

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
            inputs, self._weight, self._bias, *self._arguments, "none", [], ""
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
            inputs, self._weight, self._bias, "none", [], ""
        )
        return outputs

    def _plain(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(inputs, weight, bias)
