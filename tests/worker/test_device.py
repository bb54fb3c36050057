"""The use of a GPU; its answers are stood in for, since most machines have none."""

import pytest
import torch

from app.ipc.messages import DeviceUse
from app.worker.device import device_use, watch


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)


def test_it_tells_how_full_and_busy_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 75)
    assert device_use("cuda") == DeviceUse(10, 20, 40, 100, busy=0.75)


def test_without_nvml_it_tells_how_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: str) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert device_use("cuda") == DeviceUse(10, 20, 40, 100, busy=None)


def test_of_a_cpu_there_is_nothing_to_tell() -> None:
    def send(use: DeviceUse) -> None:
        raise AssertionError(use)

    watch("cpu", send)
