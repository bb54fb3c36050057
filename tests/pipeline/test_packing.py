"""Weights packed for oneDNN compute what they did."""

import copy
import platform

import pytest
import torch
from torch import nn

from app.pipeline.packing import pack
from app.pipeline.simplify import GEGLU

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="packs on x86 only")


def layers(dtype: torch.dtype) -> nn.Sequential:
    module = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(16, 8, 1),
        nn.Flatten(2),
        GEGLU(nn.Linear(16, 48)),
        nn.Linear(24, 8, bias=False),
    )
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5])
@torch.inference_mode()
def test_packed_layers_give_what_they_gave(dtype: torch.dtype, rows: int) -> None:
    plain = layers(dtype)
    packed = copy.deepcopy(plain)
    pack(packed)
    inputs = torch.randn(rows, 8, 8, 8).to(dtype, memory_format=torch.channels_last)
    off = (packed(inputs).float() - plain(inputs).float()).abs().max()
    assert float(off) < (1e-6 if dtype == torch.float32 else 1e-2)


@torch.inference_mode()
def test_a_copy_computes_in_the_type_of_its_inputs() -> None:
    plain = layers(torch.bfloat16)
    packed = copy.deepcopy(plain)
    pack(packed)
    inputs = torch.randn(2, 8, 8, 8)
    expected = plain.float()(inputs)
    assert not list(packed.parameters())
    assert float((copy.deepcopy(packed)(inputs) - expected).abs().max()) < 1e-6


@torch.inference_mode()
def test_layers_that_are_not_plain_and_types_that_are_not_packed_stay() -> None:
    reflected = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    half = layers(torch.float16)
    for module in (reflected, half):
        before = str(module)
        pack(module)
        assert str(module) == before
