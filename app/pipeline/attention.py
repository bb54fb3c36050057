"""Self-attention by the kernel that is fastest: on a GPU measured, not believed.

Which of torch's kernels that is hangs on the head's channels, the positions, the number type and
the card, and torch chooses by rules of thumb. They are called by their operators here, as
``sdpa_kernel`` sets switches of the whole process, and other threads decode meanwhile. The plain
kernel, quadratic in memory, is no candidate but what the others are held against.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from app.pipeline.devices import fetched, is_of_the_device, onednn_computes_in, ran_out_of_memory
from app.pipeline.selfcheck import deviation, largest_deviation

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, ``[rows, heads, positions, channels]``, to the attended values."""

Stopwatch = Callable[[Callable[[], object]], float]
"""Seconds that the device takes for a call."""

OWN_CHOICE = "torch's own choice"
CALLS = 10

SCORES_OF_THREAD = 2**20
"""Scores for each thread, two megabytes in bfloat16, that are to stay in cache: tried with two."""

_aten = torch.ops.aten
KERNELS: dict[str, Attend] = {
    OWN_CHOICE: functional.scaled_dot_product_attention,
    "cudnn": lambda *qkv: _aten._scaled_dot_product_cudnn_attention(*qkv, None, False)[0],
    "flash": lambda *qkv: _aten._scaled_dot_product_flash_attention(*qkv)[0],
    "efficient": lambda *qkv: _aten._scaled_dot_product_efficient_attention(*qkv, None, False)[0],
}

logger = logging.getLogger(__name__)


class SelfAttention(torch.nn.Module):
    """Attention of ``heads`` over queries, keys and values side by side in one tensor.

    On a GPU ``kernels`` has the names of :data:`KERNELS` to use, by positions.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kernels: dict[int, str] = {}

    def forward(self, qkv: Tensor) -> Tensor:
        """``[rows, positions, 3 · heads · channels]`` to a third as wide."""
        name = self.kernels.get(qkv.shape[1], OWN_CHOICE) if qkv.is_cuda else OWN_CHOICE
        attend = KERNELS[name]
        if qkv.device.type == "cpu" and _blocks_are_faster(qkv.dtype):
            attend = in_blocks
        return attend(*_split(qkv, self.heads)).transpose(1, 2).flatten(2)


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = qkv.view(*qkv.shape[:2], 3, heads, -1).transpose(1, 3).unbind(2)
    return queries, keys, values


def _blocks_are_faster(dtype: torch.dtype) -> bool:
    """In bfloat16 by AVX-512: 1.65 times as fast as torch's kernel on an AMD EPYC.

    With AMX that one uses it. A compiler would unroll the loop.
    """
    return (
        not torch.compiler.is_compiling()  # first, so that the others are not traced
        and dtype == torch.bfloat16
        and torch.cpu._is_avx512_bf16_supported()
        and onednn_computes_in(dtype)
        and not torch.cpu._is_amx_tile_supported()
    )


def in_blocks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention by oneDNN's products, over so many queries at once that the scores stay in cache.

    The scores are rounded to the inputs' type, as in the eager attention of diffusers. What comes
    out of the UNet is as near to float32 as by torch's kernel: 0.43 to 0.50 % off by either, over
    the built-in model in bfloat16, whose scores are up to 43.
    """
    rows, heads, positions, channels = queries.shape
    queries = (queries * channels**-0.5).reshape(-1, positions, channels)
    keys = keys.reshape(-1, positions, channels).transpose(1, 2)
    values = values.transpose(2, 3).reshape(-1, channels, positions)
    most = SCORES_OF_THREAD * torch.get_num_threads()
    size = min(positions, max(1, most // positions))
    together = max(1, most // (positions * size))
    attended = torch.empty_like(values)
    scores = queries.new_empty(min(together, rows * heads), size, positions)
    for head in range(0, rows * heads, together):
        heads_of_it = slice(head, head + together)
        for first in range(0, positions, size):
            of_block = queries[heads_of_it, first : first + size]
            block = scores[: of_block.shape[0], : of_block.shape[1]]
            torch.bmm(of_block, keys[heads_of_it], out=block)
            torch.softmax(block, -1, out=block)
            # Transposed: oneDNN is slow where few columns come out, such as a head's channels.
            out = attended[heads_of_it, :, first : first + size]
            torch.bmm(values[heads_of_it], block.transpose(1, 2), out=out)
    return attended.view(rows, heads, channels, positions).transpose(2, 3)


Shape = tuple[int, int, int]
"""Heads, positions and channels of a head."""


@contextmanager
def shapes_seen(unet: Any) -> Iterator[set[Shape]]:
    """The shapes of self-attention in the calls of ``unet`` that are made meanwhile."""
    seen: set[Shape] = set()

    def note(module: SelfAttention, given: tuple[Tensor]) -> None:
        _, positions, width = given[0].shape
        seen.add((module.heads, positions, width // (3 * module.heads)))

    hooks = [each.register_forward_pre_hook(note) for each in _attentions(unet)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def use(unet: Any, chosen: dict[Shape, str]) -> None:
    """Have ``unet`` attend by these kernels."""
    for each in _attentions(unet):
        each.kernels = {shape[1]: name for shape, name in chosen.items() if shape[0] == each.heads}


def _attentions(unet: Any) -> list[SelfAttention]:
    return [each for each in unet.modules() if isinstance(each, SelfAttention)]


@cache
@torch.inference_mode()
def fastest(shape: Shape, rows: int, dtype: torch.dtype, device: torch.device) -> str:
    """The kernel that takes the least time for so many rows, of those that compute the right thing.

    One is left out, and that is logged, where it raises or is off by more than rounding explains.
    All pipelines of a process have the same, so that they can be held against each other.
    """
    heads, positions, channels = shape
    qkv = torch.randn(rows, positions, 3 * heads * channels, dtype=dtype, device=device)
    inputs = _split(qkv, heads)
    first = [each[:1] for each in inputs]
    exact = fetched(_aten._scaled_dot_product_attention_math(*(x.float() for x in first))[0])
    seconds: dict[str, float] = {}
    for name, attend in KERNELS.items():
        try:
            off = deviation(attend(*first), exact)
            if not off <= largest_deviation(dtype):
                raise ArithmeticError(f"it is off by {off:.1%}")
            seconds[name] = stopwatch(lambda attend=attend: attend(*inputs))  # type: ignore[misc]
        except Exception as error:
            if is_of_the_device(error) and not ran_out_of_memory(error):
                raise
            words = str(error).strip().partition("\n")[0]
            logger.warning("Attention of %s is left to others than %s: %s", shape, name, words)
    chosen = min(seconds, key=seconds.__getitem__, default=OWN_CHOICE)
    told = ", ".join(f"{name} {1e6 * taken:.0f} µs" for name, taken in seconds.items())
    logger.info(
        "Attention of %d heads over %d positions of %d channels, %d rows: %s (%s)",
        *shape, rows, chosen, told,
    )  # fmt: skip
    return chosen


def stopwatch(call: Callable[[], object]) -> float:
    """Seconds of a call on the current GPU, once it has been called before."""
    call()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    for _ in range(CALLS):
        call()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000 / CALLS
