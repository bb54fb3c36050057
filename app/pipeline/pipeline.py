"""The pipeline: a picture in, variations of it out, in steps that others can share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import CheckpointError, GenerationFailed, InvalidParameter
from app.parameters import Fit, ModelInfo, Parameters, Scheduler, Size
from app.pictures import Picture
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.decoding import Decoded, Decoder
from app.pipeline.devices import choose_device, choose_dtypes, dtype_name
from app.pipeline.folding import Folding, fold
from app.pipeline.hub import find_checkpoint, is_local
from app.pipeline.known import Known, known, known_revision
from app.pipeline.preprocessing import Preprocessing
from app.pipeline.safety import Safety
from app.pipeline.samples import Row, Sample, Sampler, Step
from app.pipeline.solver import SolverTable, solver_table

Embedding = NDArray[np.float32]

_REMEMBERED_CONDITIONS = 64


class Pipeline:
    """A loaded checkpoint, all its parts on one device. Not to be called from two threads at once.

    >>> pipeline = Pipeline.load("demo")
    >>> embedding = pipeline.encode(picture, Fit.SQUASH)
    >>> samples = [pipeline.start(embedding, parameters, i) for i in range(parameters.n)]
    >>> while samples[0].steps_left:
    ...     pipeline.step(samples)
    >>> pictures = [decoded.picture for decoded in pipeline.decode(samples)]
    """

    def __init__(
        self, model: ModelInfo, parts: Parts, device: torch.device, preprocessing: Preprocessing
    ) -> None:
        self.model = model
        self._parts = parts
        self._device = device
        self._preprocessing = preprocessing
        self._conditions = _Conditions(fold(parts.unet), parts.unet.config.cross_attention_dim)
        self._sampler = Sampler(parts.unet, device, parts.unet.dtype)
        checker = parts.safety_checker
        safety = Safety(checker, parts.feature_extractor) if checker is not None else None
        self._decoder = Decoder(parts.vae, safety)
        self._table: Callable[[Scheduler, int], SolverTable] = cache(
            lambda scheduler, steps: solver_table(scheduler, steps, parts.scheduler_config)
        )

    @classmethod
    def load(
        cls,
        model: str = "demo",
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        attention_slicing: str = "off",
        vae_slicing: bool = False,
        safety_checker: bool = True,
        sizes: tuple[Size, ...] = (),
        progress: Callable[[str, float | None], None] | None = None,
    ) -> "Pipeline":
        """Load ``model``: ``demo``, a folder, or a hub id (downloaded if it is not here).

        ``sizes`` are the ``(width, height)`` in pixels to offer, the default first; empty means
        the checkpoint's own. ``attention_slicing`` is ``off``, ``auto`` or ``max``, as diffusers'
        ``set_attention_slice`` takes it: less memory, slower. ``progress`` is told
        ``("downloading", fraction)`` and ``("loading", None)``. Raises :class:`CheckpointError`
        where this cannot be served.
        """
        report = progress or (lambda stage, fraction: None)
        chosen = choose_device(device)
        revision = revision or known_revision(model)
        folder = find_checkpoint(model, revision, report, safety_checker=safety_checker)
        defaults = known(model, folder)
        dtypes = choose_dtypes(dtype, chosen, defaults.cpu_dtype)
        report("loading", None)
        parts = load_parts(folder, dtypes, safety_checker)
        info = ModelInfo(
            # A folder by its name alone: answers tell nobody how this machine is laid out.
            id=folder.resolve().name if is_local(model) else model,
            revision=None if is_local(model) else revision,
            guidance_scale=defaults.guidance_scale,
            num_inference_steps=defaults.num_inference_steps,
            scheduler=defaults.scheduler or parts.scheduler,
            fit=defaults.fit,
            sizes=_offered(parts, sizes),
            device=str(chosen),
            dtype=dtype_name(dtypes.unet),
            safety_checker=parts.safety_checker is not None,
        )
        _place(parts, chosen, attention_slicing, vae_slicing)
        return cls(info, parts, chosen, _preprocessing(parts, defaults))

    def free_memory(self) -> None:
        """Give back to the device what the allocator keeps for later, to be tried anew."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def encode(self, picture: Picture, fit: Fit) -> Embedding:
        """The un-normalised projected CLIP embedding ``float32 [D]`` of a ``uint8 [H, W, 3]``.

        Raises :class:`GenerationFailed` where it is not finite.
        """
        encoder = self._parts.image_encoder
        pixels = self._preprocessing(picture, fit, self._device)
        embedding = encoder(pixels.to(encoder.dtype)).image_embeds[0].float().cpu().numpy()
        return _finite(embedding)

    @torch.inference_mode()
    def start(self, embedding: Embedding, parameters: Parameters, index: int) -> Sample:
        """Variation ``index`` of a request before its first step, from seed ``seed + index``.

        Raises :class:`InvalidParameter` for a size that is not offered, and
        :class:`GenerationFailed` for an embedding of another length or with infinities.
        """
        size = (parameters.width, parameters.height)
        if size not in self.model.sizes:
            offered = ", ".join(f"{width}x{height}" for width, height in self.model.sizes)
            raise InvalidParameter(f"sizes offered are {offered}", field="width")
        rows = self._conditions.rows(_finite(embedding), parameters.guidance_scale)
        table = self._table(parameters.scheduler, parameters.num_inference_steps)
        noise = self._noise(parameters.seed + index, size)
        return Sample(noise.to(self._device), rows, table, size)

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        """Take ``samples``, all of one size, a step further in one UNet call.

        The call is padded to ``bucket`` rows: always the same bucket makes the same bytes.
        Returns before the device is done; :meth:`Step.wait` waits for it. Where this raises no
        sample has changed.
        """
        return self._sampler.step(samples, bucket)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        """The pictures of samples of one size, decoded together and safety-checked.

        ``before_check`` is called in between.
        """
        return self._decoder.decode([sample.latents for sample in samples], before_check)

    def generate(
        self,
        picture: Picture,
        parameters: Parameters,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Decoded]:
        """All of it for one picture; ``progress`` is told the steps done and the steps in all."""
        embedding = self.encode(picture, parameters.fit)
        samples = [self.start(embedding, parameters, i) for i in range(parameters.n)]
        for done in range(1, samples[0].steps + 1):
            self.step(samples).wait()
            if progress:
                progress(done, samples[0].steps)
        return self.decode(samples)

    def _noise(self, seed: int, size: Size) -> Tensor:
        """``float32 [C, h, w]``, drawn on the CPU so that a seed is the same on every device."""
        width, height = (pixels // self._parts.vae_scale for pixels in size)
        shape = (1, self._parts.unet.config.in_channels, height, width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))[0]


class _Conditions:
    """Rows of a guidance scale; folded embeddings are remembered for the next sample of theirs."""

    def __init__(self, folding: Folding, length: int) -> None:
        self._folding = folding
        self._length = length
        self._remembered: OrderedDict[bytes, Tensor] = OrderedDict()
        self._zero = folding.condition(torch.zeros(length))

    def rows(self, embedding: Embedding, guidance_scale: float) -> list[Row]:
        """Guidance ``u + g·(c − u)`` (Ho & Salimans, 2022) as rows ``(c, g)`` and ``(u, 1 − g)``.

        At most 1 means no guidance, as in the reference: ``c`` alone.
        """
        if guidance_scale <= 1:
            return [Row(self._folded(embedding), 1.0)]
        return [
            Row(self._folded(embedding), guidance_scale),
            Row(self._zero, 1.0 - guidance_scale),
        ]

    def _folded(self, embedding: Embedding) -> Tensor:
        if embedding.shape != (self._length,):
            raise GenerationFailed(
                f"the embedding has shape {embedding.shape}; this model takes ({self._length},)"
            )
        key = embedding.tobytes()
        if key not in self._remembered:
            self._remembered[key] = self._folding.condition(torch.from_numpy(embedding.copy()))
        self._remembered.move_to_end(key)
        if len(self._remembered) > _REMEMBERED_CONDITIONS:
            self._remembered.popitem(last=False)
        return self._remembered[key]


def _finite(embedding: NDArray[Any]) -> Embedding:
    if not np.isfinite(embedding).all():
        raise GenerationFailed("the picture's embedding is not finite; try another picture")
    return embedding.astype(np.float32)


def _preprocessing(parts: Parts, defaults: Known) -> Preprocessing:
    return Preprocessing.of(parts.image_encoder, parts.feature_extractor, defaults.antialias)


def _place(parts: Parts, device: torch.device, attention_slicing: str, vae_slicing: bool) -> None:
    for part in (parts.unet, parts.vae):
        part.to(device, memory_format=torch.channels_last)
    for part in (parts.image_encoder, parts.safety_checker):
        if part is not None:
            part.to(device)
    if attention_slicing != "off":
        parts.unet.set_attention_slice(attention_slicing)
    if vae_slicing:
        parts.vae.enable_slicing()


def _offered(parts: Parts, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """``sizes`` or the checkpoint's own, each such that the UNet can halve it and come back."""
    unit = parts.vae_scale * 2 ** (len(parts.unet.config.block_out_channels) - 1)
    for width, height in sizes:
        if width < unit or height < unit or width % unit or height % unit:
            fitting = f"{_nearest(width, unit)}x{_nearest(height, unit)}"
            raise CheckpointError(
                f"this model makes pictures whose sides are multiples of {unit} pixels: "
                f"not {width}x{height}, but {fitting}, say"
            )
    return sizes or (_own_size(parts),)


def _nearest(pixels: int, unit: int) -> int:
    return max(unit, round(pixels / unit) * unit)


def _own_size(parts: Parts) -> Size:
    latents = parts.unet.config.sample_size
    height, width = (latents, latents) if isinstance(latents, int) else latents
    return width * parts.vae_scale, height * parts.vae_scale
