"""Near-copies among the pictures of a data set, by their descriptors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import BadInput
from app.pictures.decode import decode
from app.pipeline.descriptors import Descriptor, Descriptors, Outline, Sscd
from app.training.errors import CannotStart
from app.training.examples import MAX_PIXELS
from app.training.sources import Raw

_CHUNK = 64


def open_descriptor(where: str | None, device: str = "cpu") -> Descriptor:
    """SSCD from a path or URL; ours where none is named.

    Raises :class:`CannotStart` where there is no such file.
    """
    if where is None:
        return Outline()
    path = Path(where)
    if where.startswith(("http://", "https://")):
        path = Path(torch.hub.get_dir()) / Path(where.partition("?")[0]).name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(where, str(path), progress=False)
            except OSError as error:
                raise CannotStart(f"{where} cannot be fetched (--descriptor): {error}") from error
    if not path.is_file():
        raise CannotStart(f"there is no file {where!r} (--descriptor)")
    try:
        return Sscd(path, device)
    except ValueError as error:
        raise CannotStart(f"--descriptor: {error}") from error


@dataclass(frozen=True, slots=True)
class Described:
    """The descriptors of a data set's readable pictures, their keys and their places in it."""

    descriptors: Descriptors
    keys: tuple[str, ...]
    places: tuple[int, ...]
    unreadable: int


def describe(raws: Iterator[Raw], descriptor: Descriptor) -> Described:
    """Describe every picture that can be read; raises :class:`CannotStart` where none can be."""
    rows: list[Descriptors] = []
    keys: list[str] = []
    places: list[int] = []
    seen = 0
    numbered = enumerate(raws)
    while chunk := list(islice(numbered, _CHUNK)):
        pictures = []
        for place, raw in chunk:
            seen += 1
            try:
                pictures.append(decode(raw.data, max_pixels=MAX_PIXELS))
            except BadInput:
                continue
            keys.append(raw.key)
            places.append(place)
        if pictures:
            rows.append(descriptor(pictures))
    if not rows:
        raise CannotStart("no picture of the data can be read")
    return Described(np.concatenate(rows), tuple(keys), tuple(places), seen - len(keys))


class Index:
    """Exact search for the nearest pictures by cosine."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._index = faiss.IndexFlatIP(descriptors.shape[1])
        self._index.add(descriptors)

    @property
    def size(self) -> int:
        """The pictures in it."""
        return int(self._index.ntotal)

    def nearest(self, wanted: Descriptors, n: int = 1) -> tuple[Descriptors, NDArray[np.int64]]:
        """Cosines and rows ``[N, n]`` of the nearest, the nearest first."""
        cosines, rows = self._index.search(wanted, n)
        return cosines, rows

    def within(self, wanted: Descriptors, least: float) -> Iterator[dict[int, float]]:
        """For each of ``wanted`` the rows whose cosine is ``least`` or more, with their cosines."""
        for start in range(0, len(wanted), _CHUNK):
            ends, cosines, rows = self._index.range_search(wanted[start : start + _CHUNK], least)
            for begin, end in pairwise(ends):
                yield dict(zip(rows[begin:end].tolist(), cosines[begin:end].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A picture that is left out, by its key, and the earlier one that it is a near-copy of."""

    key: str
    kept: str
    cosine: float


def find_duplicates(described: Described, least: float) -> dict[int, Duplicate]:
    """Near-copies of earlier pictures that are kept, by their places in the data."""
    found: dict[int, Duplicate] = {}
    left_out: set[int] = set()
    matches = Index(described.descriptors).within(described.descriptors, least)
    for row, alike in enumerate(matches):
        earlier = {o: c for o, c in alike.items() if o < row and o not in left_out}
        if earlier:
            nearest = max(earlier, key=earlier.__getitem__)
            left_out.add(row)
            found[described.places[row]] = Duplicate(
                described.keys[row], described.keys[nearest], earlier[nearest]
            )
    return found
