"""Pairs of drawings on disk, so that every part trains on the same pictures."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.training.world import ATTRIBUTES, SIZE, draw, draw_field, training_scenes

FIELD_SHARE = 0.08
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two drawings of each of ``N`` scenes, memory-mapped.

    ``pictures`` is uint8 ``[N, 2, SIZE, SIZE, 3]``; ``labels`` is int64 ``[N, 5]`` in the order of
    :data:`~app.training.world.ATTRIBUTES`, −1 where the pair are crops of a colour field.
    """

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what :func:`draw_pairs` wrote."""
        return cls(np.load(folder / "pictures.npy", mmap_mode="r"), np.load(folder / "labels.npy"))


def draw_pairs(folder: Path, n: int, seed: int, progress: Callable[[int], None]) -> Pairs:
    """Draw ``n`` pairs into ``folder``, or open them if they are there already."""
    wanted = json.dumps({"n": n, "seed": seed})
    stamp = folder / "drawn.json"
    if not (stamp.exists() and stamp.read_text() == wanted):
        _draw_all(folder, n, seed, progress)
        stamp.write_text(wanted)
    return Pairs.load(folder)


def _draw_all(folder: Path, n: int, seed: int, progress: Callable[[int], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(n, 2, SIZE, SIZE, 3)
    )
    labels = np.full((n, len(ATTRIBUTES)), -1, dtype=np.int64)
    starts = range(0, n, _CHUNK)
    # A fork would copy the locks of torch's threads, held for ever in the child.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        sizes = [min(_CHUNK, n - start) for start in starts]
        seeds = [(seed, start) for start in starts]
        for start, (drawn, known) in zip(starts, pool.map(_draw_chunk, sizes, seeds), strict=True):
            pictures[start : start + len(drawn)] = drawn
            labels[start : start + len(drawn)] = known
            progress(len(drawn))
    pictures.flush()
    np.save(folder / "labels.npy", labels)


def _draw_chunk(n: int, seed: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    scenes = training_scenes(rng)
    pictures = np.empty((n, 2, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.full((n, len(ATTRIBUTES)), -1, dtype=np.int64)
    for i in range(n):
        if rng.random() < FIELD_SHARE:
            pictures[i] = draw_field(rng)
        else:
            scene = next(scenes)
            pictures[i], labels[i] = (draw(scene, rng), draw(scene, rng)), scene.labels()
    return pictures, labels
