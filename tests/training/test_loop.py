from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.training import loop
from app.training.loop import Recipe, train

_RECIPE = Recipe(steps=6, batch=4, learning_rate=0.1, ema_decay=0.9)


class _StoppedError(Exception):
    pass


def _run(folder: Path, stop_at: int | None = None) -> tuple[Tensor, list[int]]:
    """The weights after training a line in ``folder``, and the steps this run did."""
    torch.manual_seed(0)
    module, done = nn.Linear(3, 1), list[int]()

    def loss_of(rng: np.random.Generator) -> Tensor:
        x = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))
        noise = torch.randn(4, 1)
        loss: Tensor = (module(x) - x.sum(1, keepdim=True) - 0.1 * noise).square().mean()
        return loss

    def progress(_name: str, step: int, _total: int, _loss: float) -> None:
        done.append(step)
        if step == stop_at:
            raise _StoppedError

    with suppress(_StoppedError):
        train("line", module, _RECIPE, loss_of, folder, seed=1, progress=progress)
    return module.weight.detach().clone(), done


def test_a_stopped_run_goes_on_to_what_an_uninterrupted_one_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    whole, _ = _run(tmp_path / "whole")

    _run(tmp_path / "parts", stop_at=4)
    resumed, done = _run(tmp_path / "parts")

    assert done == [4, 5, 6]
    assert torch.equal(resumed, whole)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    trained, _ = _run(tmp_path)
    again, done = _run(tmp_path)

    assert done == []
    assert torch.equal(again, trained)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, batch=1, learning_rate=1.0, warmup=0.1, cooldown=0.5)

    rates = [recipe.rate(step) for step in range(100)]

    assert rates[0] < 0.1
    assert rates[10:50] == pytest.approx([1.0] * 40, abs=0.01)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] < 0.02
