"""Training data as files: folders of pictures, and WebDataset shards as `img2dataset` writes them.

A picture may have a JSON file of the same name beside it with its scores and sizes. In a shard both
are members of the tar file: ``000000123.jpg`` and ``000000123.json``.
"""

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import webdataset

from app.training.errors import CannotStart

SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_BUFFER = 1000
_REMOTE = ("http:", "https:", "pipe:", "s3:", "gs:", "hf:")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Raw:
    """One picture of a data set, not decoded; ``facts`` is its JSON file's content."""

    key: str
    data: bytes
    facts: Mapping[str, Any]


class Source(Protocol):
    """A data set that can be read from its beginning again and again."""

    def ordered(self) -> Iterator[Raw]:
        """All pictures once, as they are stored."""

    def shuffled(self, seed: int, epoch: int) -> Iterator[Raw]:
        """All pictures once, in an order that depends on ``seed`` and ``epoch`` alone."""


def open_source(data: str) -> Source:
    """The data set at ``data``: a folder of pictures or of shards, or shards by path or URL.

    Braces make many of one, as in ``shards/{00000..00099}.tar``. Raises :class:`CannotStart` where
    there is nothing to train on.
    """
    folder = Path(data)
    if folder.is_dir():
        if shards := sorted(str(path) for path in folder.rglob("*.tar")):
            return Shards(shards)
        if pictures := sorted(path for path in folder.rglob("*") if _is_picture(path)):
            return Pictures(folder, pictures)
        raise CannotStart(
            f"{data} has neither shards (.tar) nor pictures ({', '.join(SUFFIXES)}) in it (--data)"
        )
    shards = list(webdataset.shardlists.expand_urls(data))
    missing = [url for url in shards if not url.startswith(_REMOTE) and not Path(url).is_file()]
    if missing or not shards:
        raise CannotStart(
            f"there is no {missing[0] if missing else data!r} (--data): a folder of pictures or "
            "shards, or shards such as 'data/{00000..00099}.tar', is needed"
        )
    return Shards(shards)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in SUFFIXES and path.is_file()


@dataclass(frozen=True, slots=True)
class Pictures:
    """A folder with pictures, in folders of their own or not."""

    folder: Path
    paths: Sequence[Path]

    def ordered(self) -> Iterator[Raw]:
        """See :class:`Source`."""
        yield from map(self._read, self.paths)

    def shuffled(self, seed: int, epoch: int) -> Iterator[Raw]:
        """See :class:`Source`."""
        paths = list(self.paths)
        random.Random(f"{seed} {epoch}").shuffle(paths)  # noqa: S311
        yield from map(self._read, paths)

    def _read(self, path: Path) -> Raw:
        beside = path.with_suffix(".json")
        facts = _facts(beside.read_bytes()) if beside.is_file() else {}
        return Raw(str(path.relative_to(self.folder)), path.read_bytes(), facts)


@dataclass(frozen=True, slots=True)
class Shards:
    """Tar files in WebDataset's layout, local or streamed from where they are."""

    urls: Sequence[str]

    def ordered(self) -> Iterator[Raw]:
        """See :class:`Source`."""
        for sample in self._samples(self.urls):
            if raw := _raw(sample):
                yield raw

    def shuffled(self, seed: int, epoch: int) -> Iterator[Raw]:
        """See :class:`Source`: shards in a random order, then pictures within a buffer of 1,000."""
        rng = random.Random(f"{seed} {epoch}")  # noqa: S311
        urls = list(self.urls)
        rng.shuffle(urls)
        samples = self._samples(urls)
        shuffle = webdataset.detshuffle(_BUFFER, initial=_BUFFER, seed=rng.getrandbits(32))
        for sample in shuffle.run(samples):
            if raw := _raw(sample):
                yield raw

    def _samples(self, urls: Sequence[str]) -> Iterator[dict[str, Any]]:
        tars = webdataset.tariterators
        for url in urls:
            try:
                stream = webdataset.gopen(url)
            except OSError as error:
                _note(error)
                continue
            with stream:  # the library leaves it open
                files = tars.tar_file_expander([{"url": url, "stream": stream}], handler=_note)
                yield from tars.group_by_keys(files, handler=_note)


def _note(error: Exception) -> bool:
    """Go on with the next shard, and tell which one could not be read to its end."""
    logger.warning("A shard cannot be read to its end: %s", error)
    return True


def _raw(sample: Mapping[str, Any]) -> Raw | None:
    """The picture in a sample; None where it has none, such as a text alone."""
    for suffix in SUFFIXES:
        if suffix in sample:
            return Raw(sample["__key__"], sample[suffix], _facts(sample.get("json", b"{}")))
    return None


def _facts(data: bytes) -> dict[str, Any]:
    """A JSON file's object; empty where it is broken, so that what it lacks is counted."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
