"""What is known of checkpoints beyond what their files say."""

from dataclasses import dataclass
from pathlib import Path

from app.parameters import Fit, Scheduler

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "checkpoints" / "demo"


@dataclass(frozen=True, slots=True)
class Known:
    """Defaults of one checkpoint.

    ``antialias`` says whether its training resized pictures with a low-pass filter; ``cpu_dtype``
    names the dtype that ``auto`` means on a CPU where bfloat16 is no gain.
    """

    revision: str | None = None
    guidance_scale: float = 3.0
    num_inference_steps: int = 50
    scheduler: Scheduler = Scheduler.PNDM
    fit: Fit = Fit.SQUASH
    antialias: bool = False
    cpu_dtype: str | None = None


_KNOWN = {
    # Its README calls the squashing without antialias an oversight that inference must repeat.
    "lambdalabs/sd-image-variations-diffusers": Known(revision="v2.0"),
    DEMO: Known(
        num_inference_steps=25,
        scheduler=Scheduler.DPMSOLVER,
        antialias=True,
        cpu_dtype="float32",
    ),
}


def known(model: str) -> Known:
    """What is known of ``model``; one that is not in the table is taken for the reference's kin."""
    return _KNOWN.get(model, Known())
