"""What the API process and the worker say to each other: plain data over one pipe.

To the worker: :class:`Start` once, then :class:`Submit` and :class:`Cancel`.
From the worker: :class:`Loading` until :class:`Ready` or :class:`LoadFailed`, then for every
request either :class:`Encoded` and :class:`Done`, or :class:`Failed`; :class:`Stats` after every
step, :class:`DecodedSome` after every decode, :class:`RanOut` where memory did, and
:class:`DeviceUse` now and then. A cancelled request is not answered, but :class:`Dropped`.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.parameters import ModelInfo, Parameters, Size
from app.pictures import Picture

Embedding = NDArray[np.float32]
"""A picture's projected CLIP embedding, not normalised, ``float32`` of shape ``[projection]``."""


@dataclass(frozen=True, slots=True)
class Start:
    """Load this checkpoint and get ready; the fields are those of :class:`app.settings.Settings`.

    ``step_seconds`` maps a bucket to the seconds of one step as an earlier worker measured them;
    where it is given, the worker does not measure again.
    """

    model: str
    revision: str | None
    device: str
    dtype: str
    attention_slicing: str
    vae_slicing: bool
    safety_checker: bool
    sizes: tuple[Size, ...]
    max_rows: int | None
    fixed_bucket: bool
    log_level: str = "info"
    log_format: str = "text"
    step_seconds: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submit:
    """Make a request's variations, from its picture or, run again, from its embedding."""

    request_id: str
    parameters: Parameters
    source: Picture | Embedding


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this request any more: drop its samples before the next step."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Loading:
    """The worker is not ready yet: ``stage`` says what it does, ``fraction`` (0–1) how far."""

    stage: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes requests, and has measured what its work costs, for the default size.

    ``buckets`` are the batch sizes of a step in rows, the largest its cap; ``step_seconds`` maps
    some of them to the seconds of a step. ``encode_seconds`` is for one picture, and so is
    ``decode_seconds``, the safety checker included; ``decoded_at_once`` pictures at most share a
    decode.
    """

    model: ModelInfo
    buckets: tuple[int, ...]
    step_seconds: dict[int, float]
    encode_seconds: float
    decode_seconds: float
    decoded_at_once: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The worker cannot start; ``message`` says why, for whoever runs the service.

    An exit status could not carry the reason, nor tell what is ``final``, where another start is
    of no use, from a death. The worker then waits for the end of the pipe.
    """

    message: str
    final: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """The picture's embedding; with it, the request can be run again without the picture.

    ``seconds`` is what that took, ``None`` where it was known before.
    """

    request_id: str
    embedding: Embedding
    seconds: float | None


@dataclass(frozen=True, slots=True)
class DecodedSome:
    """So many pictures of one ``size`` were decoded and checked together, in ``seconds``."""

    pictures: int
    size: Size
    seconds: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cancelled request is out of the worker's hands: no work under way is for it any more."""

    request_id: str


WorkStage = Literal["encode", "step", "decode"]


@dataclass(frozen=True, slots=True)
class RanOut:
    """The device's memory did not hold something, which was split or tried again."""

    stage: WorkStage


StageName = Literal["upload", "read", "queue", "encode", "denoise", "decode", "safety", "write"]
"""Where a request's time goes: its body arrives, becomes pixels, waits for its first step, becomes
an embedding, is denoised, decoded, checked for safety; its files are written. All but ``queue``,
``encode``, ``denoise``, ``decode`` and ``safety`` happen in the API process."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a request's time, between two readings of ``perf_counter``.

    The processes of one machine share that clock. A request may be in one stage several times.
    """

    name: StageName
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Done:
    """A request's pictures in the order of their seeds; ``None`` stands for a flagged one.

    ``stages`` tells where the time went since the worker got it, ``steps`` how many UNet calls it
    took part in.
    """

    request_id: str
    pictures: tuple[Picture | None, ...]
    stages: tuple[Stage, ...]
    steps: int


Failure = Literal["failed", "memory", "parameters"]
"""Why a request alone could not be served: something went wrong with it, it does not fit in the
device's memory, or the model cannot do what its parameters ask."""


@dataclass(frozen=True, slots=True)
class Failed:
    """This request alone cannot be served; ``message`` is written for the caller."""

    request_id: str
    message: str
    kind: Failure = "failed"


@dataclass(frozen=True, slots=True)
class Stats:
    """One step.

    ``seconds`` is its length. ``rows`` are real, ``bucket`` counts the padding too, and all
    pictures are of one ``size`` (width, height). ``members`` are the samples that took part, as
    (request, index); ``schedules`` counts the distinct (scheduler, number of steps) pairs among
    them. ``waiting_rows`` are those of admitted samples that did not take part, ``cap`` the most
    rows that a step may now have.
    """

    seconds: float
    rows: int
    bucket: int
    size: Size
    members: tuple[tuple[str, int], ...]
    schedules: int
    waiting_rows: int
    cap: int

    @property
    def requests(self) -> int:
        """Distinct requests among the rows."""
        return len({request_id for request_id, _ in self.members})


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """How full and how busy the GPU is, of itself; every few seconds, and never from a CPU.

    Bytes ``used`` by tensors, ``reserved`` by torch's allocator for them, ``occupied`` on the
    device by anybody, and in ``total``; ``busy`` is the share (0–1) of the last moments in which
    the device did something, where NVML answers.
    """

    used: int
    reserved: int
    occupied: int
    total: int
    busy: float | None


ToWorker = Start | Submit | Cancel
FromWorker = (
    Loading
    | Ready
    | LoadFailed
    | Encoded
    | Stats
    | DecodedSome
    | RanOut
    | Done
    | Failed
    | Dropped
    | DeviceUse
)
