"""Steps on a CPU of the served UNet and of others."""

import pytest
import torch

from benchmarks import cpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_contenders_are_measured_and_held_against_diffusers(dtype: torch.dtype) -> None:
    found = cpu.measure("tiny", dtype, [2, 3], 1, [])
    assert [(each.rows, each.denoiser) for each in found] == [
        (2, "diffusers"), (2, "served"), (3, "diffusers"), (3, "served"),
    ]  # fmt: skip
    assert found[0].gain == 1.0
    assert found[0].deviation == 0.0
    assert 0 <= found[1].deviation < cpu.ALLOWED[dtype]
    assert len(cpu.table(found)) == 4
    [plot] = cpu.plots(found)
    assert plot.lines["served"][0] == ("2 rows", found[1].seconds)


@pytest.mark.filterwarnings("ignore")  # of its converter
def test_openvino_gives_what_diffusers_gives() -> None:
    pytest.importorskip("openvino", reason="it is in the extra openvino")
    found = cpu.measure("tiny", torch.float32, [2], 1, ["openvino"])
    assert found[-1].denoiser == "OpenVINO"
    assert found[-1].deviation < cpu.ALLOWED[torch.float32]
