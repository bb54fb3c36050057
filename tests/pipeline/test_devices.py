"""What hangs on the device and its threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from app.pipeline import devices
from app.pipeline.devices import one_thread_if_small


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_encoder_is_computed_by_one_thread_even_if_it_fails() -> None:
    def fail() -> None:
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), one_thread_if_small(nn.Linear(8, 8)):
        fail()
    assert torch.get_num_threads() == 2


def test_a_large_one_has_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SMALL", 8 * 8)
    with one_thread_if_small(nn.Linear(8, 8)):
        assert torch.get_num_threads() == 2


def test_one_on_another_device_changes_nothing_here() -> None:
    with one_thread_if_small(nn.Linear(8, 8, device="meta")):
        assert torch.get_num_threads() == 2
