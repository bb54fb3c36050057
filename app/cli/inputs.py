"""The pictures that a command is given, and where what is made of them goes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from app.errors import BadInput
from app.parameters import MAX_IMAGES

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True)
class Input:
    """The picture at ``path``, the ``position``-th of all, or with ``others`` a mixture.

    ``name`` is where its variations go below the output folder, without seed and suffix.
    """

    position: int
    path: Path
    name: Path
    others: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its pictures."""
        return self.path, *self.others

    def output(self, folder: Path, seed: int, suffix: str) -> Path:
        """The file of one of its variations."""
        return folder / self.name.with_name(f"{self.name.name}-{seed}.{suffix}")


def find_inputs(given: Sequence[Path], out: Path) -> list[Input]:
    """The files given, and those with the name of a picture in the folders given and below them.

    Each once; hidden ones and those in ``out`` are left out. Raises :class:`BadInput` for a folder
    without any.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path, Path(path.name))
            continue
        members = [each for each in _pictures_below(path) if not _is_below(each, out)]
        if not members:
            raise BadInput(f"There is no picture in {path}", field="pictures")
        for member in members:
            found.setdefault(member, member.relative_to(path))
    names = _distinct(found.values())
    return [Input(i, path, name) for i, (path, name) in enumerate(zip(found, names, strict=True))]


def mixed(inputs: Sequence[Input]) -> Input:
    """One input of all their pictures. Raises :class:`BadInput` for too few or too many."""
    if not 2 <= len(inputs) <= MAX_IMAGES:
        raise BadInput(f"2 to {MAX_IMAGES} pictures can be mixed, not {len(inputs)}", field="mix")
    first, *others = inputs
    name = Path("+".join(each.name.name for each in inputs))
    return Input(0, first.path, name, tuple(each.path for each in others))


def _pictures_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in _SUFFIXES:
                yield Path(parent) / file


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _distinct(names: Iterable[Path]) -> list[Path]:
    """Names without their suffix, or with it and then a number where another has the same."""
    distinct: dict[Path, None] = {}
    for name in names:
        numbered = (name.with_name(f"{name.stem}-{i}{name.suffix}") for i in count(2))
        candidates = chain((name.with_suffix(""), name), numbered)
        distinct[next(each for each in candidates if each not in distinct)] = None
    return list(distinct)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whatever ends this; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
