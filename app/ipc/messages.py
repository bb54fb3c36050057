"""Messages between the API process and the worker: plain data over one pipe.

To the worker: :class:`Start` once, then :class:`Submit` and :class:`Cancel`.
From the worker: :class:`Loading` until :class:`Ready` or :class:`LoadFailed`, then for every
request either :class:`Encoded`, a :class:`PictureDone` for each picture and :class:`Done`, or
:class:`Failed`; :class:`StepStats` after every step, :class:`PreviewMade` now and then where a
request wishes it, :class:`DecodeStats` after every decode,
:class:`RanOut` where memory did, and :class:`DeviceUse` now and then. A cancelled request is not
answered, but :class:`Dropped`.
"""

from dataclasses import dataclass, field
from typing import Literal

from app.parameters import (
    Condition,
    Embedding,
    ModelConfig,
    ModelInfo,
    NearDuplicate,
    Parameters,
    Size,
)
from app.pictures import Picture
from app.pictures.fit import Preprocessing
from app.scheduling.row_cap import CapReason


@dataclass(frozen=True, slots=True)
class Start:
    """Load this checkpoint and get ready.

    ``max_rows`` is the row cap, ``None`` to measure it. ``earlier`` is what an earlier worker
    measured; this one does not measure again then. With ``previews``, get ready to make them.
    ``hub_token`` is for downloads, and not kept.
    """

    config: ModelConfig
    max_rows: int | None
    fixed_bucket: bool
    log_level: str = "info"
    log_format: str = "text"
    earlier: "Measured | None" = None
    previews: bool = False
    hub_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Submit:
    """Make a request's variations. The same message again makes the same pictures again.

    ``due`` is its place in the line, see :mod:`app.scheduling.batcher`. With ``previews`` the
    pictures are shown while they are made.
    """

    request_id: str
    parameters: Parameters
    condition: Condition
    due: float = 0.0
    previews: bool = False


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
class Measured:
    """The steps of this model on this machine, for the default size.

    ``step_seconds`` are those of one step by its rows, for some numbers of rows. From them comes
    the ``row_cap``, for the reason that is told; ``threads`` are torch's, ``attention`` the kernels
    of self-attention, in words. ``disturbance``, 1 or more, is how many times as long the steps
    took as with the processor to themselves.
    """

    step_seconds: dict[int, float]
    row_cap: int
    cap_reason: CapReason = CapReason.SET
    threads: int = 1
    attention: str = ""
    disturbance: float = 1.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes requests, and has measured what its work costs, for the default size.

    ``preprocessing`` is what its encoder takes. ``buckets`` are the batch sizes of a step in rows.
    ``encode_seconds`` and ``decode_seconds`` are for one picture, the safety checker included; at
    most ``at_once`` pictures share an encode or a decode. Where that happens
    ``beside`` the steps, these go on meanwhile.
    """

    model: ModelInfo
    preprocessing: Preprocessing
    buckets: tuple[int, ...]
    measured: Measured
    encode_seconds: float
    decode_seconds: float
    at_once: int
    beside: bool = False


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The worker cannot start; ``message`` says why, for whoever runs the service.

    An exit status could not carry the reason, nor tell what is ``final``, where another start is
    of no use, from a crash. The worker then waits for the end of the pipe.
    """

    message: str
    final: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """The request's condition was encoded, and its samples have joined the line.

    ``seconds`` are its share, by its pictures, of those that were encoded to embeddings together,
    ``latents_seconds`` those of the picture that it starts from. ``embeddings`` are those of its
    condition's distinct pictures, as the rows first name them: in the place of these they make the
    same variations.
    """

    request_id: str
    seconds: float
    latents_seconds: float
    embeddings: tuple[Embedding, ...]


@dataclass(frozen=True, slots=True)
class DecodeStats:
    """So many pictures of one ``size`` were decoded and checked together, in ``seconds``."""

    pictures: int
    size: Size
    seconds: float


@dataclass(frozen=True, slots=True)
class PictureDone:
    """Picture ``index`` of a request; ``None`` stands for a flagged one."""

    request_id: str
    index: int
    picture: Picture | None
    near_duplicate: NearDuplicate | None = None


@dataclass(frozen=True, slots=True)
class PreviewMade:
    """What picture ``index`` of a request seems to become, small and unchecked."""

    request_id: str
    index: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cancelled request is out of the worker's hands: no work under way is for it any more."""

    request_id: str


WorkStage = Literal["encode", "step", "decode"]


@dataclass(frozen=True, slots=True)
class RanOut:
    """The device's memory did not hold something, which was split or tried again."""

    stage: WorkStage


UNetKind = Literal["eager", "compiling", "compiled", "not compiled"]
"""How steps are computed: eagerly; so until the UNet is compiled; by what was compiled; eagerly, as
it cannot be compiled."""


@dataclass(frozen=True, slots=True)
class UNetRuns:
    """From now on steps are computed so; before it is said, eagerly."""

    kind: UNetKind


StageName = Literal["upload", "read", "queue", "encode", "denoise", "decode", "safety", "write"]
"""Stages that take a request's time: its body arrives, becomes the encoder's input, waits for its
first step, becomes an embedding, is denoised, decoded, checked for safety; its files are written.
All but ``queue``, ``encode``, ``denoise``, ``decode`` and ``safety`` happen in the API process."""


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
    """All of a request's pictures have been sent.

    ``stages`` tells where the time went since the worker got it, ``steps`` how many UNet calls it
    took part in.
    """

    request_id: str
    stages: tuple[Stage, ...]
    steps: int


Failure = Literal["failed", "memory", "steps"]
"""Why a request alone could not be served: something went wrong with it, it does not fit in the
device's memory, or its solver cannot make its number of steps."""


@dataclass(frozen=True, slots=True)
class Failed:
    """This request alone cannot be served; ``message`` is written for the caller."""

    request_id: str
    message: str
    kind: Failure = "failed"


@dataclass(frozen=True, slots=True)
class StepStats:
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
    """The use of the GPU, told unasked every few seconds, and never from a CPU.

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
    | StepStats
    | DecodeStats
    | PictureDone
    | PreviewMade
    | RanOut
    | UNetRuns
    | Done
    | Failed
    | Dropped
    | DeviceUse
)
