"""Requests and models as plain data that every process and folder shares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""Width and height in pixels."""

EncoderInput = NDArray[np.float32]
"""A fitted and normalised picture as the image encoder takes it: ``float32 [3, side, side]``."""

Embedding = NDArray[np.float32]
"""What the image encoder makes of it, projected and not normalised: ``float32 [projection]``.

It may stand wherever a condition names a picture; its one dimension tells it apart.
"""

MAX_IMAGES = 4
MAX_VARIATIONS = 8
MAX_GUIDANCE_SCALE = 25.0
MAX_STEPS = 100
MAX_SEED = 2**32 - 1


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


class Mix(StrEnum):
    """Ways in which several pictures are looked at together."""

    EMBEDDING = "embedding"
    ROWS = "rows"


Phases = tuple[tuple[int, int], ...]
"""The UNet calls of a sample, from its first, as (calls, UNet inputs in each of them)."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """One request's parameters, every default resolved.

    ``width`` and ``height`` are the output's pixels; ``guidance_scale`` at most 1 means no
    guidance, and it is only for the part of the UNet calls from ``guidance_start`` to
    ``guidance_end``. ``weight`` has a positive number for each picture, in sum 1;
    ``negative_image`` says that there is one beside them. With a ``strength``, in (0, 1], the first
    picture is started from, and only that part of the steps is taken.
    """

    n: int
    guidance_scale: float
    num_inference_steps: int
    scheduler: Scheduler
    seed: int
    width: int
    height: int
    fit: Fit
    weight: tuple[float, ...] = (1.0,)
    mix: Mix = Mix.EMBEDDING
    negative_image: bool = False
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    strength: float | None = None

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def begin(self) -> int | None:
        """The solver's UNet call that is the first, where a picture is started from.

        As ``StableDiffusionImg2ImgPipeline.get_timesteps`` of diffusers has it.
        """
        if self.strength is None:
            return None
        steps = self.num_inference_steps
        order = 2 if self.scheduler in (Scheduler.HEUN, Scheduler.KDPM2) else 1
        return order * (steps - min(int(steps * self.strength), steps))

    @property
    def images(self) -> int:
        """Pictures that the image encoder is given."""
        return len(self.weight) + self.negative_image

    @property
    def table(self) -> tuple[Scheduler, int, int | None]:
        """The solver's table: of which, of how many steps, and from which call on."""
        return self.scheduler, self.num_inference_steps, self.begin

    @property
    def calls(self) -> int:
        """UNet calls from the start to the picture."""
        return unet_calls(self.scheduler, self.num_inference_steps) - (self.begin or 0)

    @property
    def guided(self) -> range:
        """The UNet calls with guidance, by their numbers from 0 on."""
        if self.guidance_scale <= 1:
            return range(0)
        calls = self.calls
        return range(round(self.guidance_start * calls), round(self.guidance_end * calls))

    @property
    def phases(self) -> Phases:
        """The UNet inputs of each call of one variation: one more with guidance."""
        guided, plain = self.guided, len(self.weight) if self.mix is Mix.ROWS else 1
        after = self.calls - guided.stop
        phases = (guided.start, plain), (len(guided), plain + 1), (after, plain)
        return tuple((calls, rows) for calls, rows in phases if calls)

    @property
    def rows(self) -> int:
        """The most UNet inputs that a step of one variation takes: two with guidance."""
        return max(rows for _, rows in self.phases)

    @property
    def row_steps(self) -> int:
        """UNet inputs of all calls of all variations."""
        return self.n * sum(calls * rows for calls, rows in self.phases)

    def seed_of(self, index: int) -> int:
        """The seed of variation ``index``: alone, with ``n=1``, it makes the same picture."""
        return self.seed + index


Mixture = tuple[tuple[EncoderInput | Embedding, float], ...]
"""Pictures whose embeddings are summed by these weights; of none the sum is the zero embedding."""

ALL_CALLS = range(2 * MAX_STEPS)


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """One UNet input of every sample, in those of its UNet calls whose numbers are in ``calls``.

    It looks at one embedding, the sum of ``pictures``; its output has a ``weight``.
    """

    pictures: Mixture
    weight: float
    calls: range = ALL_CALLS


@dataclass(frozen=True, slots=True)
class Condition:
    """All that a request asks the model to look at, and so all that is sent to a worker.

    The UNet's outputs for the rows of a call are summed by their weights into one prediction. Where
    there is a ``start``, ``uint8 [H, W, 3]`` of the output's size, samples begin from it.
    """

    rows: tuple[ConditionRow, ...]
    start: NDArray[np.uint8] | None = None

    @classmethod
    def guided(cls, picture: EncoderInput | Embedding, guidance_scale: float) -> "Condition":
        """One picture with the same guidance in every call, or at most 1: without."""
        guided = range(0) if guidance_scale <= 1 else ALL_CALLS
        return cls(_rows([(((picture, 1.0),), 1.0)], (), guidance_scale, guided, ALL_CALLS.stop))

    @classmethod
    def of(
        cls,
        parameters: Parameters,
        pictures: Sequence[EncoderInput | Embedding],
        negative: EncoderInput | Embedding | None = None,
        start: NDArray[np.uint8] | None = None,
    ) -> "Condition":
        """What a request with these pictures asks for.

        They are mixed into one embedding, or each has rows of its own, whose outputs are composed
        (Liu et al., 2022, eq. 11). ``negative`` stands in the place of the zero embedding.
        """
        mixture = tuple(zip(pictures, parameters.weight, strict=True))
        looks: list[tuple[Mixture, float]] = [(mixture, 1.0)]
        if parameters.mix is Mix.ROWS:
            looks = [(((picture, 1.0),), weight) for picture, weight in mixture]
        against = () if negative is None else ((negative, 1.0),)
        scale, guided, calls = parameters.guidance_scale, parameters.guided, parameters.calls
        return cls(_rows(looks, against, scale, guided, calls), start)


def _rows(
    looks: Sequence[tuple[Mixture, float]],
    against: Mixture,
    scale: float,
    guided: range,
    calls: int,
) -> tuple[ConditionRow, ...]:
    """Classifier-free guidance ``u + g·(c − u)`` (Ho & Salimans, 2022) in the calls ``guided``.

    There ``c`` has the weight ``g`` and ``u``, what is guided away from, ``1 − g``; in all other
    calls there is ``c`` alone. ``c`` is the sum of ``looks`` by their weights.
    """
    rows = [ConditionRow(pictures, weight * scale, guided) for pictures, weight in looks]
    rows.append(ConditionRow(against, 1.0 - scale, guided))
    for others in (range(guided.start), range(guided.stop, calls)):
        rows += [ConditionRow(pictures, weight, others) for pictures, weight in looks]
    return tuple(row for row in rows if row.calls)


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
