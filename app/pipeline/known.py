"""What a checkpoint's files do not say: how it was trained to see, and its authors' settings."""

from dataclasses import dataclass
from pathlib import Path

from app.parameters import Fit, Scheduler

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "checkpoints" / "demo"


@dataclass(frozen=True, slots=True)
class Known:
    """The defaults of one checkpoint.

    ``antialias`` says how pictures were made smaller for the encoder in training; inference must
    repeat it. ``scheduler`` is ``None`` where the checkpoint's own config decides. ``cpu_dtype``
    overrides what ``dtype="auto"`` means on a CPU.
    """

    revision: str | None = None
    guidance_scale: float = 3.0
    num_inference_steps: int = 50
    scheduler: Scheduler | None = None
    fit: Fit = Fit.SQUASH
    antialias: bool = False
    cpu_dtype: str | None = None


# Revision 2.0's README: "an oversight in training" resized without antialias, to be repeated.
_LAMBDALABS = Known(revision="v2.0", scheduler=Scheduler.PNDM)

_KNOWN = {
    "lambdalabs/sd-image-variations-diffusers": _LAMBDALABS,
    DEMO: Known(
        num_inference_steps=25,
        scheduler=Scheduler.DPMSOLVER,
        antialias=True,
        cpu_dtype="float32",
    ),
}

# Most other checkpoints of this kind are fine-tunes or copies of that one.
_UNKNOWN = Known()


def known(model: str) -> Known:
    """The defaults of ``model``: a name, a hub id or a folder."""
    return _KNOWN.get(model, _UNKNOWN)
