"""Near-copies of pictures: descriptors whose cosine says how alike two pictures are, and an index.

SSCD (Pizzi et al., 2022) is the field's measure: above 0.5 is called a copy by convention, and its
authors found 90 % of pairs above 0.75 to be copies. Its weights are the user's to fetch, as the
TorchScript file that its authors publish. Without them a descriptor of ours takes its place, which
sees through compression, resizing, noise, lighter or paler colours and crops of a few percent, but
not through mirroring, larger crops or rotations. CLIP's similarity is no measure of copying:
variations are meant to be near their input.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from app.errors import BadInput
from app.pictures import Picture
from app.pictures.decode import decode
from app.training.errors import CannotStart
from app.training.examples import MAX_PIXELS
from app.training.sources import Raw

Descriptors = NDArray[np.float32]
"""``[N, D]``, each row of length 1."""

_CHUNK = 64
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Descriptor(Protocol):
    """Describes pictures; ``alike`` and ``copy`` are the cosines from which two are called so."""

    name: str
    alike: float
    copy: float

    def __call__(self, pictures: Sequence[Picture]) -> Descriptors:
        """A row of length 1 for each picture."""


class Sscd:
    """The descriptor of Pizzi et al., from a TorchScript file."""

    name = "SSCD"
    alike = 0.5
    copy = 0.75

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Raises :class:`CannotStart` where the file is no such model."""
        self._device = device
        try:
            with warnings.catch_warnings():
                # torch means to give the format up; its authors publish in no other.
                warnings.simplefilter("ignore", DeprecationWarning)
                load: Any = torch.jit.load
                self._model = load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise CannotStart(
                f"{path} is no TorchScript file (--descriptor): SSCD's authors publish theirs as "
                f"sscd_disc_mixup.torchscript.pt; {error}"
            ) from error

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Picture]) -> Descriptors:
        """As its authors ask: 288 × 288, normalised as for ImageNet."""
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        resized = np.stack([_resized(picture, 288) for picture in pictures])
        pixels = ((resized / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
        found = self._model(torch.from_numpy(pixels).to(self._device)).float().cpu().numpy()
        return _unit(found)


class Outline:
    """A descriptor of ours: the lower frequencies of a picture of 32 × 32, the higher the louder.

    The cosines of a thousand drawings to their nearest others were below 0.71 in 99 of 100, those
    to altered copies of themselves above 0.87.
    """

    name = "outline (ours)"
    alike = 0.75
    copy = 0.9
    _SIDE, _FREQUENCIES, _CHROMA = 32, 12, 0.5

    def __call__(self, pictures: Sequence[Picture]) -> Descriptors:
        """``float32 [N, 432]``."""
        small = np.stack([_resized(picture, self._SIDE) for picture in pictures])
        rgb = small.astype(np.float32) / 255
        luma = rgb @ _LUMA
        chroma = [self._CHROMA * (rgb[..., i] - luma) for i in (0, 2)]
        planes = np.stack([luma, *chroma], axis=1)
        n = self._FREQUENCIES
        waves = dctn(planes, axes=(2, 3), norm="ortho")[..., :n, :n]
        frequency = np.hypot(*np.mgrid[:n, :n])
        frequency[frequency > n] = 0
        return _unit((waves * frequency).reshape(len(pictures), -1))


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
    return Sscd(path, device)


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


def _resized(picture: Picture, side: int) -> Picture:
    shown = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(shown)


def _unit(rows: NDArray[np.float32]) -> Descriptors:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Descriptors = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
    return np.ascontiguousarray(unit)
