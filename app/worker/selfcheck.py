"""Before the first request: does the device compute what it should?"""

import logging
import math

import torch

from app.errors import CheckpointError
from app.pipeline import Pipeline
from app.pipeline.selfcheck import largest_deviation

logger = logging.getLogger(__name__)


def check(pipeline: Pipeline) -> None:
    """Hold one step and one decode, small ones, against the same in float32 on the CPU.

    That is how a broken driver, build of torch or number type shows before it is served. What is
    itself served in float32 on the CPU has nothing to be held against and is not computed. Raises
    :class:`CheckpointError`, with what can be done about it.
    """
    for part, deviation in pipeline.deviations():
        dtype, device = pipeline.dtype(part), pipeline.model.device
        if not math.isfinite(deviation):
            raise not_finite(pipeline, part)
        if deviation > largest_deviation(dtype):
            raise CheckpointError(
                f"the {part} on {device} in {_name(dtype)} is off by {deviation:.1%} from the same "
                f"in float32 on the CPU, where rounding explains {largest_deviation(dtype):.0%} at "
                f"most: {_other_than(device, dtype)}"
            )
        logger.info("The %s is off by %.2g %% from float32 on the CPU", part, 100 * deviation)


def not_finite(pipeline: Pipeline, part: str) -> CheckpointError:
    """The error of a part that makes numbers which are not finite."""
    dtype = pipeline.dtype(part)
    return CheckpointError(
        f"the {part} makes numbers that are not finite in {_name(dtype)}: {remedy(dtype)}"
    )


def remedy(dtype: torch.dtype) -> str:
    """Words on what to do where numbers are not finite, or operations missing, in ``dtype``."""
    match dtype:
        case torch.float16:
            return "VARIATIONS_DTYPE=float32, or bfloat16, has a wider range"
        case torch.bfloat16:
            return "VARIATIONS_DTYPE=float32 is more exact"
        case _:
            return "there is no wider type to choose, so the checkpoint itself is broken"


def _other_than(device: str, dtype: torch.dtype) -> str:
    """Words on what may compute rightly where a device computes wrongly."""
    others = [] if dtype == torch.float32 else ["VARIATIONS_DTYPE=float32"]
    if device != "cpu":
        others += ["another driver or build of torch", "VARIATIONS_DEVICE=cpu"]
    return f"{' or '.join(others)} may help"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
