"""How many of a model's variations are near-copies of the pictures that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import BadInput
from app.parameters import ModelConfig
from app.pictures import Picture
from app.pictures.decode import decode
from app.pipeline import Pipeline
from app.pipeline.descriptors import Descriptor, Descriptors
from app.training.copies import Described, Index, describe
from app.training.errors import CannotStart
from app.training.evaluate import vary
from app.training.examples import MAX_PIXELS
from app.training.looking import sheet
from app.training.loop import Progress
from app.training.sources import Source, open_source

_SHEET_SIDE = 256
_WORST = 8
_SELF = 0.9999
"""From this cosine on a training picture is taken for the input itself."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each of ``N`` pictures its nearest training picture: cosine and row, ``[N]`` each."""

    cosines: Descriptors
    rows: NDArray[np.int64]


def memorisation(
    model: str,
    data: str,
    inputs: str | None,
    n: int,
    seed: int,
    descriptor: Descriptor,
    worst: Path | None,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Vary ``n`` pictures once each, and search all of ``data`` for the nearest to each variation.

    The pictures are those of ``inputs``, or some of ``data``. The figures: the share of variations
    whose nearest training picture is from ``alike`` or from ``copy`` on; the same of the inputs,
    the input itself left out, as the baseline; and of variations to their own input. ``worst`` is
    a sheet of the closest: input, variation, training picture. Raises :class:`CannotStart`.
    """
    source = open_source(data)
    described = describe(source.ordered(), descriptor)
    index = Index(described.descriptors)
    shown = _chosen(open_source(inputs) if inputs else source, n, seed)
    pipeline = Pipeline.load(ModelConfig(model, device=device, safety_checker=False))
    varied = vary(pipeline, shown, pipeline.model.defaults(n=1, seed=seed), "variations", progress)
    of_inputs, of_varied = descriptor(shown), descriptor(list(varied))
    nearest = _nearest(index, of_varied)
    if worst:
        _save_worst(worst, shown, list(varied), nearest, described, source)
    others = _others(index, of_inputs)
    own = (of_inputs * of_varied).sum(axis=1)
    return {
        "descriptor": descriptor.name,
        "training_pictures": len(described.keys),
        "unreadable": described.unreadable,
        "inputs": len(shown),
        "alike_from": descriptor.alike,
        "copy_from": descriptor.copy,
        "variations": _shares(nearest.cosines, descriptor),
        "inputs_baseline": _shares(others, descriptor),
        "variation_to_its_input": _shares(own, descriptor),
    }


def _chosen(source: Source, n: int, seed: int) -> list[Picture]:
    """The first ``n`` readable pictures in a shuffled order."""
    pictures: list[Picture] = []
    for raw in source.shuffled(seed, 0):
        if len(pictures) == n:
            break
        try:
            pictures.append(decode(raw.data, max_pixels=MAX_PIXELS))
        except BadInput:
            continue
    if not pictures:
        raise CannotStart("no picture to vary can be read (--inputs)")
    return pictures


def _nearest(index: Index, wanted: Descriptors) -> Nearest:
    cosines, rows = index.nearest(wanted)
    return Nearest(cosines[:, 0], rows[:, 0])


def _others(index: Index, wanted: Descriptors) -> Descriptors:
    """The cosine of each picture to the nearest other one."""
    cosines, _ = index.nearest(wanted, min(2, index.size))
    itself = cosines[:, 0] >= _SELF
    return np.where(itself, cosines[:, -1], cosines[:, 0])


def _shares(cosines: Descriptors, descriptor: Descriptor) -> dict[str, float]:
    return {
        "alike": float((cosines >= descriptor.alike).mean()),
        "copy": float((cosines >= descriptor.copy).mean()),
        "median": float(np.median(cosines)),
        "p99": float(np.quantile(cosines, 0.99)),
    }


def _save_worst(
    path: Path,
    shown: Sequence[Picture],
    varied: Sequence[Picture],
    nearest: Nearest,
    described: Described,
    source: Source,
) -> None:
    worst = np.argsort(-nearest.cosines)[:_WORST].tolist()
    places = {described.places[nearest.rows[i]] for i in worst}
    found: dict[int, Picture] = {}
    for place, raw in enumerate(source.ordered()):
        if place in places:
            found[place] = decode(raw.data, max_pixels=MAX_PIXELS)
    rows = []
    for i in worst:
        three = (shown[i], varied[i], found[described.places[nearest.rows[i]]])
        rows.append([_tile(picture) for picture in three])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(path)


def _tile(picture: Picture) -> Picture:
    side = (_SHEET_SIDE, _SHEET_SIDE)
    return np.asarray(Image.fromarray(picture).resize(side, Image.Resampling.BICUBIC))
