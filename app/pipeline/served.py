"""The UNet as it is served: folded, and run eagerly, from recordings, or compiled."""

import logging
import math
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from app.pipeline import attention
from app.pipeline.compiled import compiled, sharing
from app.pipeline.denoiser import Denoiser, eager
from app.pipeline.devices import ran_out_of_memory
from app.pipeline.folding import TimeFold
from app.pipeline.graphs import Graphs, cuda_recorder
from app.pipeline.packing import pack
from app.pipeline.simplify import simplify

logger = logging.getLogger(__name__)


class ServedUNet:
    """A UNet whose cross-attention is folded, made fit for serving in place.

    ``zero`` is a row of its conditions, ``[1, channels]``; ``shapes`` are the latents ``[C, h, w]``
    of every size. ``fold_time`` was taken out of it, ``denoiser`` runs it. Not to be called from
    two threads at once, but for :meth:`compiled`.
    """

    def __init__(self, unet: Any, zero: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
        simplify(unet)
        self.fold_time = TimeFold(unet)
        self.denoiser: Denoiser = eager(unet)
        self._unet = unet
        self._compilable: Any = None
        self._row = self._zero_time(zero.device), zero
        self._device = zero.device
        self._shapes = shapes
        self.attention: dict[attention.Shape, str] = {}
        """The kernels of self-attention that were measured to be fastest here."""
        self._buckets: tuple[int, ...] = ()
        self._tune = False

    def choose(self, *, graphs: bool, compilable: bool) -> None:
        """Get what runs on this device: packed weights on a CPU, CUDA graphs where they are wished.

        ``compilable`` keeps what :meth:`compiled` needs.
        """
        if compilable:
            self._compilable = sharing(self._unet)
        if self._device.type == "cpu":
            pack(self._unet)
        if self._device.type == "cuda" and graphs:
            self.denoiser = Graphs(self.denoiser, cuda_recorder())

    def compiled(self) -> Denoiser:
        """The UNet call compiled, for :meth:`take`; in minutes, in which other threads may step.

        Raises :class:`CheckpointError` where that cannot be, or comes out otherwise.
        """
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        return compiled(self._compilable, self._row, self._shapes)

    def take(self, denoiser: Denoiser) -> None:
        """Step with this one from now on; what was recorded of the other is recorded anew."""
        if isinstance(self.denoiser, Graphs):
            self.denoiser.replace(denoiser)
        else:
            self.denoiser = denoiser
        self.prepare(self._buckets, tune=self._tune)

    @torch.inference_mode()
    def prepare(self, buckets: Iterable[int], *, tune: bool) -> None:
        """Get a GPU ready for steps of so many rows, of every size, and record them as CUDA graphs.

        What memory does not hold, the largest first, is left to be run as it comes. ``tune`` has
        cuDNN choose algorithms by trying them: faster, but another start may choose others, whose
        last bits differ; so with the kernels of self-attention. A CPU needs no such thing.
        """
        self._buckets, self._tune = tuple(buckets), tune
        if self._device.type == "cuda" and tune and not self.attention:
            self._choose_attention(max(self._buckets))
        if self._device.type == "cpu" and not isinstance(self.denoiser, Graphs):
            return
        began = perf_counter()
        shapes = {(bucket, *shape) for shape in self._shapes for bucket in self._buckets}
        torch.backends.cudnn.benchmark = tune
        try:
            for shape in sorted(shapes, key=math.prod, reverse=True):
                if not self._prepare(shape):
                    logger.warning("Memory does not hold a step of %s latents beforehand", shape)
                    self._empty_cache()
        finally:
            torch.backends.cudnn.benchmark = False
        seconds = perf_counter() - began
        logger.info("Prepared for steps of %d shapes in %.1f s", len(shapes), seconds)

    def _choose_attention(self, rows: int) -> None:
        with attention.shapes_seen(self._unet) as seen:
            for shape in self._shapes:
                self.denoiser(*self._inputs((1, *shape)))
        dtype = self._unet.dtype
        for each in sorted(seen, reverse=True):
            self.attention[each] = attention.fastest(each, rows, dtype, self._device)
        for unet in (self._unet, self._compilable):
            if unet is not None:
                attention.use(unet, self.attention)

    def _prepare(self, shape: tuple[int, ...]) -> bool:
        """Record a step, or run it once where none are recorded; false where memory ran out."""
        try:
            if isinstance(self.denoiser, Graphs):
                return self.denoiser.record(*self._inputs(shape))
            self.denoiser(*self._inputs(shape))
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            return False
        return True

    def _inputs(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        latents = torch.zeros(shape, device=self._device)
        times, conditions = (torch.stack([each] * shape[0]) for each in self._row)
        return latents, times, conditions

    def free_memory(self) -> None:
        """Give back to the device what the allocator keeps for later, to be tried anew."""
        if isinstance(self.denoiser, Graphs):
            self.denoiser.make_room()
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _zero_time(self, device: torch.device) -> Tensor:
        """A folded timestep, ``[channels]``."""
        folded: Tensor = self.fold_time(torch.zeros(1, device=device))
        return folded[0]
