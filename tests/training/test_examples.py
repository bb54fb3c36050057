"""Training examples: the same for any number of processes, and as serving shows them."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.parameters import Fit
from app.pictures.fit import Preprocessing
from app.training.examples import Examples, Place, Share, View, noise_for
from app.training.sieve import Sieve
from app.training.sources import open_source
from app.training.world import Picture

_PREPROCESSING = Preprocessing(32, antialias=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
_VIEW = View(64, _PREPROCESSING, flip=True)


def _examples(pictures: Path, share: Share, n: int, **changes: Any) -> list[dict[str, Any]]:
    examples = Examples(open_source(str(pictures)), Sieve(), _VIEW, share, 5, **changes)
    return list(islice(examples, n))


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(torch.as_tensor(first[k]), torch.as_tensor(second[k])) for k in first)


def test_two_processes_share_the_batches_of_one(pictures: Path) -> None:
    alone = _examples(pictures, Share(4), 16)
    first, second = (_examples(pictures, Share(2, i, 2), 8) for i in range(2))

    together = [first[0:2], second[0:2], first[2:4], second[2:4]]

    assert all(map(_same, alone, [example for batch in together for example in batch]))


def test_a_run_goes_on_where_it_was_beyond_an_epoch_too(pictures: Path) -> None:
    whole = _examples(pictures, Share(2), 30)
    place = Place(*whole[19]["place"].tolist())

    rest = _examples(pictures, Share(2), 10, position=20, place=place)

    assert place == Place(1, 8)
    assert all(map(_same, whole[20:], rest))


def test_loaders_take_turns_from_where_a_run_goes_on() -> None:
    share = Share(2, process=1, processes=2)

    turns = [[p for p in range(16) if share.takes(p, worker, 2)] for worker in range(2)]

    assert turns == [[2, 3, 10, 11], [6, 7, 14, 15]]


@pytest.mark.parametrize("fit", Fit)
def test_the_encoder_sees_the_crop_as_serving_would_show_it(fit: Fit) -> None:
    picture: Picture = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    view = View(64, _PREPROCESSING, fit, random_crop=False)

    drawn, encoder = view(picture, np.random.default_rng(0))

    crop = picture[:, 20:100]
    assert np.array_equal(encoder, _PREPROCESSING(np.ascontiguousarray(crop), fit))
    assert drawn.shape == (3, 64, 64)
    assert drawn.min() >= -1
    assert drawn.max() <= 1


def test_noise_depends_on_the_position_alone() -> None:
    together = noise_for(1, torch.arange(6), (4, 8, 8), 1000, 0.5)
    apart = noise_for(1, torch.tensor([4]), (4, 8, 8), 1000, 0.5)

    assert all(torch.equal(whole[4:5], one) for whole, one in zip(together, apart, strict=True))
    assert together[0].std() == pytest.approx(1, abs=0.1)
    assert len(set(together[1].tolist())) == 6
