"""The UNet call compiled by ``torch.compile``: fewer and larger kernels, chosen for this device.

The whole UNet is one graph, and the number of rows stays open, so that one compilation serves every
batch of a size. It is done before the first request: a compilation beside the steps would hold them
up for a minute or more. What cannot run on what was compiled then runs as it is.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor

from app.errors import CheckpointError
from app.pipeline.denoiser import Denoiser, eager
from app.pipeline.devices import ran_out_of_memory
from app.pipeline.selfcheck import largest_deviation

_ROWS = 4
"""Of the call that is compiled: 0 and 1 would not stay open."""


def compiled(unet: Any, row: tuple[Tensor, Tensor], shapes: Iterable[tuple[int, ...]]) -> Denoiser:
    """A folded UNet, compiled for latents ``[any number, *shape]`` of each of ``shapes``.

    ``row`` is a folded timestep and a condition, ``[channels]`` and ``[1, channels]``. What the
    compiler makes is kept in the folder that ``TORCHINDUCTOR_CACHE_DIR`` names, by default beside
    the hub's cache, for later starts to take. Raises :class:`CheckpointError` where it cannot be
    compiled, or comes out otherwise.
    """
    kept = Path(constants.HF_HOME) / "variations-compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    plain = eager(unet)
    predict: Denoiser = torch.compile(plain)
    for shape in shapes:
        try:
            deviation = _deviation(predict, plain, row, shape)
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            words = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"the UNet cannot be compiled here: {type(error).__name__}: {words:.300}; it needs "
                "a C++ compiler. VARIATIONS_COMPILE=off runs it as it is"
            ) from error
        if not deviation <= largest_deviation(unet.dtype):  # it may be no number
            raise CheckpointError(
                f"the compiled UNet is off by {deviation:.1%} from what it is compiled from; "
                "VARIATIONS_COMPILE=off runs it as it is"
            )

    def run(latents: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
        with torch.compiler.set_stance("eager_on_recompile"):
            return predict(latents, times, conditions)

    return run


@torch.inference_mode()
def _deviation(
    predict: Denoiser, plain: Denoiser, row: tuple[Tensor, Tensor], shape: tuple[int, ...]
) -> float:
    """Compile ``predict`` for latents of this shape; how far off it is from ``plain``."""
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(_ROWS, *shape, generator=random).to(row[0].device)
    inputs = latents, *(torch.stack([each] * _ROWS) for each in row)
    for each in inputs:
        torch._dynamo.mark_dynamic(each, 0)
    expected = plain(*inputs)
    return float((predict(*inputs) - expected).norm() / expected.norm())
