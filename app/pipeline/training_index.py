"""An index of the pictures that a model was trained on, to mark variations that are near-copies.

A folder that ``python -m app train index`` writes: ``index.json`` says by which descriptor and from
which cosine on two pictures are near-copies, ``descriptors.safetensors`` has a row for each
picture, ``names.json`` their names, and ``descriptor.torchscript.pt`` the descriptor's weights if
it has any.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.errors import TrainingIndexError
from app.parameters import ModelConfig, NearDuplicate
from app.pictures import Picture
from app.pipeline.descriptors import Descriptor, Descriptors, Outline, Sscd
from app.pipeline.devices import fetched, is_of_the_device, ran_out_of_memory, sent
from app.pipeline.safety import Decoded

NOT_COMPARED = "the picture could not be compared with the training pictures; try another seed"

_FACTS = "index.json"
_DESCRIPTORS = "descriptors.safetensors"
_NAMES = "names.json"
_WEIGHTS = "descriptor.torchscript.pt"
_SAME = 0.999
"""Cosine of the probe's two descriptors, at least: devices round differently."""

_DIGITS = 4


def write_index(
    folder: Path,
    descriptor: Descriptor,
    descriptors: Descriptors,
    names: Sequence[str],
    threshold: float,
) -> None:
    """Write the index of pictures to a new folder; ``descriptors`` are ``[N, D]``, as ``names``.

    With them goes the descriptor of one known picture, by which another descriptor of the same
    name is found out. ``index.json`` comes last and says that the rest is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"descriptors": descriptors, "probe": descriptor([_probe()])}
    save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / _DESCRIPTORS)
    (folder / _NAMES).write_text(json.dumps(list(names)) + "\n")
    if descriptor.weights:
        shutil.copy(descriptor.weights, folder / _WEIGHTS)
    facts = {"descriptor": descriptor.name, "threshold": threshold, "pictures": len(names)}
    (folder / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingIndex:
    """Descriptors ``float32 [N, D]`` on a device, searched whole, and what made them.

    ``names`` is ``None`` where they may not be told.
    """

    descriptor: Descriptor
    descriptors: Tensor
    threshold: float
    names: Sequence[str] | None

    @classmethod
    def of(cls, config: ModelConfig, device: torch.device) -> Self | None:
        """The one that is asked for, if one is.

        Raises :class:`TrainingIndexError` where it cannot be used.
        """
        if config.training_index is None:
            return None
        folder = Path(config.training_index)
        try:
            return cls._open(folder, device, names=config.training_names)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            if ran_out_of_memory(error) or is_of_the_device(error):
                raise
            raise TrainingIndexError(
                f"{folder} is no index of training pictures that can be used "
                "(VARIATIONS_TRAINING_INDEX): write one with `python -m app train index`; "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def _open(cls, folder: Path, device: torch.device, *, names: bool) -> Self:
        facts = json.loads((folder / _FACTS).read_text())
        tensors = load_file(folder / _DESCRIPTORS)
        descriptors, probe = tensors["descriptors"], tensors["probe"]
        descriptor = _descriptor(facts["descriptor"], folder, device)
        _check(descriptor, descriptors, probe)
        told = json.loads((folder / _NAMES).read_text()) if names else None
        if told is not None and len(told) != len(descriptors):
            raise ValueError(f"{_NAMES} has {len(told)} names for {len(descriptors)} pictures")
        return cls(descriptor, descriptors.to(device), float(facts["threshold"]), told)

    @torch.inference_mode()
    def nearest(self, pictures: Sequence[Picture]) -> list[tuple[float, int]]:
        """For each picture the cosine of its nearest training picture, and that one's row."""
        wanted = sent(torch.from_numpy(self.descriptor(pictures)), self.descriptors.device)
        cosines, rows = (wanted @ self.descriptors.T).max(dim=1)
        return list(zip(fetched(cosines).tolist(), fetched(rows).tolist(), strict=True))

    def mark(self, decoded: Sequence[Decoded]) -> list[Decoded]:
        """The same with a mark on each near-copy of a training picture.

        One whose descriptor is not finite becomes an error: it must not pass for no copy.
        """
        pictures = [one.picture for one in decoded if one.picture is not None]
        nearest = iter(self.nearest(pictures) if pictures else ())
        return [
            one if one.picture is None else self._marked(one, *next(nearest)) for one in decoded
        ]

    def _marked(self, one: Decoded, cosine: float, row: int) -> Decoded:
        if not math.isfinite(cosine):
            return Decoded(None, error=NOT_COMPARED)
        if cosine < self.threshold:
            return one
        of = self.names[row] if self.names else None
        score = min(1.0, round(cosine, _DIGITS))
        return replace(one, near_duplicate=NearDuplicate(score, self.threshold, of))


def _descriptor(name: Any, folder: Path, device: torch.device) -> Descriptor:
    match name:
        case Outline.name:
            return Outline()
        case Sscd.name:
            return Sscd(folder / _WEIGHTS, str(device))
    raise ValueError(f"{_FACTS} names the descriptor {name!r}, which is not known")


def _check(descriptor: Descriptor, descriptors: Tensor, probe: Tensor) -> None:
    """Raise :class:`ValueError` unless ``descriptor`` is the one that the index was made with."""
    if descriptors.ndim != 2 or not len(descriptors) or descriptors.dtype != torch.float32:
        raise ValueError(f"{_DESCRIPTORS} should have descriptors of type float32 and shape [N, D]")
    now = descriptor([_probe()])
    same = now.shape == tuple(probe.shape) == (1, descriptors.shape[1])
    if not (same and float((torch.from_numpy(now) * probe).sum()) >= _SAME):
        raise ValueError(f"{descriptor.name} describes pictures now otherwise than in this index")


def _probe() -> Picture:
    """A picture that is always the same, of coarse and fine patterns in all colours."""
    y, x, colour = np.mgrid[:96, :96, :3]
    pattern = x * y // 16 + (1 + colour) * (x // 16) * (y // 24) * 7 + colour * x
    return np.asarray(pattern % 256, np.uint8)
