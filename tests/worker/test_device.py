"""What is told of a GPU; its answers are stood in for, since most machines have none."""

from collections.abc import Iterator
from queue import SimpleQueue

import pytest
import torch

from app.engine.messages import DeviceUse
from app.worker import device
from app.worker.device import watch


def told(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[DeviceUse]:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    monkeypatch.setattr(device, "EVERY_SECONDS", 0.01)
    uses: SimpleQueue[DeviceUse] = SimpleQueue()

    def send(use: DeviceUse) -> None:
        uses.put(use)
        if uses.qsize() > 2:
            raise SystemExit  # ends the watching thread, and nothing else

    watch("cuda", send)
    return uses


def test_a_gpu_is_watched_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 75)
    uses = told(monkeypatch)
    for _ in range(2):
        assert uses.get(timeout=30) == DeviceUse(10, 20, 40, 100, busy=0.75)


def test_without_nvml_it_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[int] = iter(())

    def utilization(device: torch.device) -> int:
        try:
            return next(answers)
        except StopIteration:
            raise ModuleNotFoundError("pynvml") from None

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    uses = told(monkeypatch)
    assert uses.get(timeout=30).busy is None
    answers = iter([50])
    assert uses.get(timeout=30).busy is None


def test_of_a_cpu_there_is_nothing_to_tell() -> None:
    def send(use: DeviceUse) -> None:
        raise AssertionError(use)

    watch("cpu", send)
