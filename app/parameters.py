"""Requests and models as plain data that every process and folder shares."""

import secrets
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidParameter

Size = tuple[int, int]
"""Width and height in pixels."""

EncoderInput = NDArray[np.float32]
"""A fitted and normalised picture as the image encoder takes it: ``float32 [3, side, side]``."""

Embedding = NDArray[np.float32]
"""What the image encoder makes of it, projected and not normalised: ``float32 [projection]``.

It may stand wherever a condition names a picture; its one dimension tells it apart.
"""

MAX_VARIATIONS = 8
MAX_GUIDANCE_SCALE = 25.0
MAX_STEPS = 100
MAX_SEED = 2**32 - 1

T = TypeVar("T")


class Scheduler(StrEnum):
    """The solvers, under the names that requests use for them (diffusers calls them schedulers)."""

    PNDM = "pndm"
    DDIM = "ddim"
    EULER = "euler"
    LMS = "lms"
    HEUN = "heun"
    KDPM2 = "kdpm2"
    DEIS = "deis"
    DPMSOLVER = "dpmsolver++"
    DPMSOLVER_KARRAS = "dpmsolver++_karras"
    UNIPC = "unipc"


def unet_calls(scheduler: Scheduler, steps: int) -> int:
    """UNet calls from noise to picture: some solvers need more than they have steps."""
    match scheduler:
        case Scheduler.PNDM:  # visits its second timestep twice
            return steps + (steps > 1)
        case Scheduler.HEUN | Scheduler.KDPM2:  # of second order, but for the last step
            return 2 * steps - 1
        case _:
            return steps


class Fit(StrEnum):
    """Ways in which a picture that is not square becomes the encoder's square input."""

    SQUASH = "squash"
    CROP = "crop"
    PAD = "pad"


@dataclass(frozen=True, slots=True)
class Parameters:
    """One request's parameters, every default resolved.

    ``width`` and ``height`` are the output's pixels; ``guidance_scale`` at most 1 means no
    guidance.
    """

    n: int
    guidance_scale: float
    num_inference_steps: int
    scheduler: Scheduler
    seed: int
    width: int
    height: int
    fit: Fit

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def rows(self) -> int:
        """UNet inputs that one step of one variation takes: two with guidance."""
        return 2 if self.guidance_scale > 1 else 1

    @property
    def calls(self) -> int:
        """UNet calls from noise to picture."""
        return unet_calls(self.scheduler, self.num_inference_steps)

    def seed_of(self, index: int) -> int:
        """The seed of variation ``index``: alone, with ``n=1``, it makes the same picture."""
        return self.seed + index


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """One UNet input of every sample: the picture it looks at and the weight of its output.

    No picture stands for the zero embedding.
    """

    picture: EncoderInput | Embedding | None
    weight: float


@dataclass(frozen=True, slots=True)
class Condition:
    """All that a request asks the model to look at, and so all that is sent to a worker.

    The UNet's outputs for the rows are summed by their weights into one prediction.
    """

    rows: tuple[ConditionRow, ...]

    @classmethod
    def guided(cls, picture: EncoderInput | Embedding, guidance_scale: float) -> "Condition":
        """Classifier-free guidance ``u + g·(c − u)`` (Ho & Salimans, 2022): ``(c, g), (u, 1 − g)``.

        At most 1 means no guidance, as in the reference: ``c`` alone.
        """
        if guidance_scale <= 1:
            return cls((ConditionRow(picture, 1.0),))
        return cls(
            (ConditionRow(picture, guidance_scale), ConditionRow(None, 1.0 - guidance_scale))
        )


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """The training picture that a variation is a near-copy of.

    ``score`` is the cosine of their descriptors, which is ``threshold`` or more; ``of`` is the
    training picture's name in its data set, where names may be told.
    """

    score: float
    threshold: float
    of: str | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which checkpoint to load and how, from the settings to :meth:`app.pipeline.Pipeline.load`.

    ``model`` is ``demo``, a folder, or a hub id. ``sizes`` are the pixels to offer, the default
    first; empty means the checkpoint's own. ``attention_slicing`` is ``off``, ``auto`` or ``max``.
    ``training_index`` is a folder that ``train index`` wrote; ``training_names``: tell its names.
    """

    model: str = "demo"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    cuda_graphs: bool = True
    compile: bool = False
    attention_slicing: str = "off"
    vae_slicing: bool = False
    safety_checker: bool = True
    sizes: tuple[Size, ...] = ()
    training_index: str | None = None
    training_names: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded checkpoint: its identity, and the defaults of a request that names nothing.

    ``schedulers`` are those that a request may ask for, ``scheduler`` among them. ``sizes`` are the
    ``(width, height)`` pixels it may ask for, the default first; ``device`` and ``dtype`` are
    torch's names for them. From ``near_duplicate_threshold`` on a variation is called a near-copy
    of a training picture; ``None``: they are not compared.
    """

    id: str
    revision: str | None
    guidance_scale: float
    num_inference_steps: int
    scheduler: Scheduler
    schedulers: tuple[Scheduler, ...]
    fit: Fit
    sizes: tuple[Size, ...]
    device: str
    dtype: str
    safety_checker: bool
    near_duplicate_threshold: float | None = None

    def defaults(self, **changes: Any) -> Parameters:
        """One picture of what the checkpoint makes by default, from seed 0, but for ``changes``."""
        width, height = self.sizes[0]
        parameters = Parameters(
            n=1,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            scheduler=self.scheduler,
            seed=0,
            width=width,
            height=height,
            fit=self.fit,
        )
        return replace(parameters, **changes)

    def cheapest(self) -> Parameters:
        """The least that can be asked for: one step of one small picture without guidance."""
        width, height = min(self.sizes, key=lambda size: size[0] * size[1])
        return self.defaults(
            guidance_scale=1.0, num_inference_steps=1, scheduler=Scheduler.DDIM,
            width=width, height=height,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wishes:
    """A caller's request; ``None`` leaves a value to the checkpoint, and the seed to chance."""

    n: int = 1
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    scheduler: Scheduler | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit | None = None

    def resolve(self, model: ModelInfo) -> Parameters:
        """Every default filled in.

        Raises :class:`InvalidParameter` for a size or solver not offered, and for a seed.
        """
        width, height = self._size(model)
        return model.defaults(
            n=self.n,
            guidance_scale=_given(self.guidance_scale, model.guidance_scale),
            num_inference_steps=_given(self.num_inference_steps, model.num_inference_steps),
            scheduler=self._scheduler(model),
            seed=self._seed(),
            width=width,
            height=height,
            fit=_given(self.fit, model.fit),
        )

    def _scheduler(self, model: ModelInfo) -> Scheduler:
        scheduler = _given(self.scheduler, model.scheduler)
        if scheduler not in model.schedulers:
            offered = ", ".join(each.value for each in model.schedulers)
            raise InvalidParameter(
                f"{scheduler.value} is not offered with this checkpoint; "
                f"scheduler can be {offered}",
                field="scheduler",
            )
        return scheduler

    def _size(self, model: ModelInfo) -> Size:
        default_width, default_height = model.sizes[0]
        size = (_given(self.width, default_width), _given(self.height, default_height))
        if size not in model.sizes:
            offered = ", ".join(f"{width}x{height}" for width, height in model.sizes)
            raise InvalidParameter(
                f"Pictures of {size[0]}x{size[1]} are not offered; width x height can be {offered}",
                field="height" if self.width is None else "width",
            )
        return size

    def _seed(self) -> int:
        """The first seed; the last one, seed + n - 1, can be asked for by itself as well."""
        highest = MAX_SEED - (self.n - 1)
        seed = _given(self.seed, secrets.randbelow(highest + 1))
        if seed > highest:
            raise InvalidParameter(
                f"Variation i has seed + i, so with n={self.n} the seed can be at most {highest}",
                field="seed",
            )
        return seed


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
