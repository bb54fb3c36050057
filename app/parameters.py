"""What may be asked of the service, in plain data that every process and folder shares."""

from dataclasses import dataclass
from enum import StrEnum


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


class Fit(StrEnum):
    """How a picture that is not square becomes the encoder's square input."""

    SQUASH = "squash"
    CROP = "crop"
    PAD = "pad"


MAX_VARIATIONS = 8
MAX_GUIDANCE_SCALE = 25.0
MAX_STEPS = 100
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Parameters:
    """One request's parameters, every default resolved.

    Variation ``i`` of ``n`` starts from the noise of seed ``seed + i``. ``width`` and ``height``
    are the output's pixels; ``guidance_scale`` at most 1 means no guidance.
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
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def rows(self) -> int:
        """UNet inputs that one step of one variation takes: two with guidance."""
        return 2 if self.guidance_scale > 1 else 1

    @property
    def calls(self) -> int:
        """UNet calls from noise to picture: some solvers need more than they have steps."""
        steps = self.num_inference_steps
        match self.scheduler:
            case Scheduler.PNDM:  # visits its second timestep twice
                return steps + (steps > 1)
            case Scheduler.HEUN | Scheduler.KDPM2:  # of second order, but for the last step
                return 2 * steps - 1
            case _:
                return steps


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded checkpoint is, and what a request that names nothing gets from it.

    ``sizes`` are the ``(width, height)`` pixels a request may ask for, the default first;
    ``device`` and ``dtype`` are torch's names for them.
    """

    id: str
    revision: str | None
    guidance_scale: float
    num_inference_steps: int
    scheduler: Scheduler
    fit: Fit
    sizes: tuple[tuple[int, int], ...]
    device: str
    dtype: str
    safety_checker: bool
