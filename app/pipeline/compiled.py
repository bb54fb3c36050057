"""The UNet call compiled by ``torch.compile``: fewer and larger kernels, chosen for this device.

The whole UNet is one graph, and the number of rows stays open, so that one compilation serves every
batch of a size. It takes a minute or more, beside which other threads may call the UNet it was
copied from. What cannot run on what was compiled, a single row, then runs as it is.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants
from torch import Tensor

from app.errors import CheckpointError
from app.pipeline.denoiser import Denoiser, eager
from app.pipeline.devices import ran_out_of_memory
from app.pipeline.selfcheck import largest_deviation

_ROWS, _ROWS_ON_CPU = (4, 3), (4, 16, 3)
"""Of the calls that are compared. The first is compiled: 0 and 1 would not stay open. On a CPU so
is the second, as torch takes another convolution from 16 rows on."""

WHERE_IT_DOES_NOT_FIT: Literal["eager_on_recompile", "fail_on_recompile"] = "eager_on_recompile"
"""What torch does with inputs that it would have to compile for once more."""


def sharing(unet: Any) -> Any:
    """A copy of ``unet`` with the same weights in memory: its modules may be changed apart."""
    return deepcopy(unet, {id(each): each for each in (*unet.parameters(), *unet.buffers())})


def compiled(unet: Any, row: tuple[Tensor, Tensor], shapes: Iterable[tuple[int, ...]]) -> Denoiser:
    """A folded UNet, compiled for latents ``[any number, *shape]`` of each of ``shapes``.

    ``row`` is a folded timestep and a condition, ``[channels]`` and ``[1, channels]``. What the
    compiler makes is kept in the folder that ``TORCHINDUCTOR_CACHE_DIR`` names, by default beside
    the hub's cache, for later starts to take. Raises :class:`CheckpointError` where it cannot be
    compiled, or comes out otherwise.
    """
    kept = Path(constants.HF_HOME) / "variations-compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    plain, device = eager(unet), row[0].device
    predict: Denoiser = torch.compile(plain, options={**_OPTIONS})
    for shape, rows in product(shapes, _ROWS_ON_CPU if device.type == "cpu" else _ROWS):
        try:
            deviation = _deviation(predict, plain, row, rows, shape)
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
        with torch.compiler.set_stance(WHERE_IT_DOES_NOT_FIT):
            return predict(latents, times, conditions)

    return run


def _without_global_state(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type != "GLOBAL_STATE" for guard in guards]


_OPTIONS: dict[str, bool | Callable[..., Any]] = {
    "guard_filter_fn": _without_global_state,
    "cpp.dynamic_threads": True,
}
"""Otherwise what is compiled would be for the number of threads of that moment alone, and left
unused once another is chosen."""


@torch.inference_mode()
def _deviation(
    predict: Denoiser,
    plain: Denoiser,
    row: tuple[Tensor, Tensor],
    rows: int,
    shape: tuple[int, ...],
) -> float:
    """How far off ``predict`` is from ``plain``, for so many rows of latents of this shape."""
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, *shape, generator=random).to(row[0].device)
    inputs = latents, *(torch.stack([each] * rows) for each in row)
    for each in inputs:
        torch._dynamo.mark_dynamic(each, 0)
    expected = plain(*inputs)
    return float((predict(*inputs) - expected).norm() / expected.norm())
