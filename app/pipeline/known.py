"""Facts that a checkpoint's files do not hold: its training's preprocessing, good settings."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from app.errors import CheckpointError
from app.parameters import MAX_GUIDANCE_SCALE, MAX_STEPS, Fit, Scheduler
from app.pipeline.files import read_json

DEMO = "demo"
FACTS = "variations.json"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "checkpoints" / "demo"


@dataclass(frozen=True, slots=True)
class Known:
    """The defaults of one checkpoint.

    ``antialias`` says how pictures were made smaller for the encoder in training; inference must
    repeat it. ``scheduler`` is ``None`` where the checkpoint's own config decides. ``cpu_dtype``
    overrides what ``dtype="auto"`` means on a CPU.
    """

    revision: str | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False)] = 3.0
    num_inference_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 50
    scheduler: Scheduler | None = None
    fit: Fit = Fit.SQUASH
    antialias: bool = False
    cpu_dtype: str | None = None


_KNOWN = {
    # Revision 2.0's README: "an oversight in training" resized without antialias, to be repeated.
    "lambdalabs/sd-image-variations-diffusers": Known(revision="v2.0", scheduler=Scheduler.PNDM),
}

_UNKNOWN = Known()
"""Most other checkpoints of this kind are fine-tunes or copies of that one."""


def known_revision(model: str) -> str | None:
    """The revision of hub id ``model`` to take where none is asked for."""
    return _KNOWN.get(model, _UNKNOWN).revision


def known(model: str, folder: Path) -> Known:
    """The defaults of ``model``: its entry in the table, else what its folder says of itself.

    A checkpoint that ``app.training`` made carries its :class:`Known` as ``variations.json``.
    Raises :class:`CheckpointError` where that file is none of it.
    """
    facts = folder / FACTS
    if model in _KNOWN or not os.path.lexists(facts):
        return _KNOWN.get(model, _UNKNOWN)
    try:
        return TypeAdapter(Known).validate_python(read_json(facts))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise CheckpointError(f"{FACTS} is not valid: {where}: {problem['msg']}") from error
