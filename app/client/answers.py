"""What a service tells: the finished variations, and what happens until they are there."""

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from PIL import Image

from app.client.errors import ClientError


@dataclass(frozen=True, slots=True)
class Variation:
    """One finished picture: ``data`` is its file, ``None`` where the safety checker stopped it.

    ``width`` and ``height`` are pixels. ``details`` is whatever else the service tells of it.
    """

    index: int
    seed: int
    data: bytes | None = field(repr=False)
    media_type: str
    width: int
    height: int
    flagged: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Image.Image | None:
        """The picture, opened by Pillow; ``None`` where it was stopped."""
        return None if self.data is None else Image.open(io.BytesIO(self.data))


@dataclass(frozen=True, slots=True)
class Variations(Sequence[Variation]):
    """All pictures of a request, in the order of their seeds.

    ``parameters`` are those used, defaults filled in; ``timings`` are seconds by stage. These, and
    ``model``, are as in the service's JSON answer.
    """

    id: str
    model: dict[str, Any]
    parameters: dict[str, Any]
    timings: dict[str, float]
    pictures: tuple[Variation, ...]

    @overload
    def __getitem__(self, index: int) -> Variation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Variation]: ...
    def __getitem__(self, index: int | slice) -> Variation | Sequence[Variation]:
        return self.pictures[index]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Variation]:
        return iter(self.pictures)


@dataclass(frozen=True, slots=True)
class Queued:
    """``position`` requests stand before this one; ``start_in`` predicts the seconds until its
    first step.
    """

    position: int
    start_in: float


@dataclass(frozen=True, slots=True)
class Step:
    """``done`` are the UNet calls that each picture has behind it, ``of`` how many; ``finish_in``
    predicts the seconds until all pictures are there.
    """

    done: tuple[int, ...]
    of: int
    finish_in: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What picture ``index`` seems to become, as a small file. No safety checker has seen it."""

    index: int
    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """A worker ended, and the pictures are made again from their seeds."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The service, or the way to it, failed with ``error``: the next try is in ``seconds``."""

    seconds: float
    error: ClientError


Progress = Queued | Step | Preview | Variation | Restarted | Waiting
"""What happens to a request before all of its pictures are there."""

OnProgress = Callable[[Progress], None]


def progress_of(name: str, told: dict[str, Any]) -> Progress | None:
    """An event of the service's stream; ``None`` for one of a kind that is not known here."""
    match name:
        case "queued":
            return Queued(told["position"], told["start_in"])
        case "step":
            return Step(tuple(told["done"]), told["of"], told["finish_in"])
        case "preview":
            data = base64.b64decode(told["b64_json"])
            return Preview(told["index"], data, told["media_type"], told["width"], told["height"])
        case "picture":
            return _variation(told)
        case "restarted":
            return Restarted()
        case _:
            return None


def _variation(told: dict[str, Any]) -> Variation:
    details = dict(told)
    text = details.pop("b64_json")
    names = ("index", "seed", "media_type", "width", "height", "flagged")
    known = {name: details.pop(name) for name in names}
    return Variation(
        **known, data=None if text is None else base64.b64decode(text), details=details
    )
