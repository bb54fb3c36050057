"""Everything that touches the device, behind five verbs: encode, start, step, decode, generate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import CheckpointError, GenerationFailed
from app.parameters import Fit, ModelInfo, Parameters
from app.pipeline import samples as running
from app.pipeline.checkpoint import Checkpoint, Progress, load, locate
from app.pipeline.folding import Folding
from app.pipeline.known import Known, known
from app.pipeline.preprocessing import preprocess
from app.pipeline.safety import flag
from app.pipeline.samples import Sample
from app.pipeline.solver import solver_table

_NOT_FINITE = "the model's numbers overflowed for this picture; another seed may do"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one sample: a picture (uint8 ``[h, w, 3]``), a flag, or an ``error``."""

    picture: NDArray[np.uint8] | None
    flagged: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was handed to the device and may still be running there."""

    event: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Return when the device has finished this step."""
        if self.event is not None:
            self.event.synchronize()


class Pipeline:
    """One checkpoint on one device. Not thread-safe; knows nothing of requests.

    ``model`` says what was loaded and its defaults.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: ModelInfo,
        recipe: Known,
        device: torch.device,
    ) -> None:
        self.model = model
        self._parts = checkpoint
        self._recipe = recipe
        self._device = device
        self._folding = Folding.fold(checkpoint.unet).to(device)
        self._scale = 2 ** (len(checkpoint.vae.config.block_out_channels) - 1)
        self._table = cache(partial(solver_table, config=checkpoint.scheduler))
        mean, std = checkpoint.feature_extractor.image_mean, checkpoint.feature_extractor.image_std
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)

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
        sizes: tuple[tuple[int, int], ...] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Load a checkpoint; the arguments are those of :class:`app.settings.Settings`.

        ``progress`` hears of ``("downloading", 0…1)`` and ``("loading", None)``. Raises
        :class:`CheckpointError`, with what would be right, when the checkpoint cannot be served.
        """
        progress = progress or (lambda _stage, _fraction: None)
        recipe = known(model)
        revision = revision or recipe.revision
        folder = locate(model, revision, safety_checker=safety_checker, progress=progress)
        progress("loading", None)
        where = _device(device)
        kind = _dtype(dtype, where, recipe)
        checkpoint = load(folder, where, kind, safety_checker=safety_checker)
        _save_memory(checkpoint, attention_slicing, vae_slicing=vae_slicing)
        info = ModelInfo(
            id=model,
            revision=revision,
            guidance_scale=recipe.guidance_scale,
            num_inference_steps=recipe.num_inference_steps,
            scheduler=recipe.scheduler,
            fit=recipe.fit,
            sizes=_checked_sizes(checkpoint, sizes),
            device=str(where),
            dtype=str(kind).removeprefix("torch."),
            safety_checker=safety_checker,
        )
        return cls(checkpoint, info, recipe, where)

    def preprocess(self, picture: NDArray[np.uint8], fit: Fit) -> Tensor:
        """The encoder's input for ``picture``: float32 ``[1, 3, s, s]`` on the CPU."""
        size = self._parts.image_encoder.config.image_size
        antialias = self._recipe.antialias
        return preprocess(picture, size, fit, antialias=antialias, mean=self._mean, std=self._std)

    @torch.inference_mode()
    def encode(self, picture: NDArray[np.uint8], fit: Fit) -> NDArray[np.float32]:
        """The un-normalised projected CLIP embedding of ``picture``, float32 ``[projection]``."""
        encoder = self._parts.image_encoder
        pixels = self.preprocess(picture, fit).to(self._device, encoder.dtype)
        embedding: NDArray[np.float32] = encoder(pixels).image_embeds[0].float().cpu().numpy()
        return embedding

    @torch.inference_mode()
    def start(self, embedding: NDArray[np.float32], parameters: Parameters, index: int) -> Sample:
        """Sample ``index`` of a request, before its first step.

        Its noise is float32 ``[1, C, h, w]`` from a CPU generator of seed ``seed + index``.
        Raises :class:`GenerationFailed` for an embedding of another shape or not finite.
        """
        size = self._parts.unet.config.cross_attention_dim
        if embedding.shape != (size,) or not np.isfinite(embedding).all():
            raise GenerationFailed(f"an embedding is {size} finite numbers; this one is not")
        weights = _weights(parameters.guidance_scale)
        token = torch.from_numpy(embedding)
        # The unconditional embedding is zero.
        tokens = torch.stack([token, torch.zeros_like(token)])[: len(weights)]
        conditions = self._folding(tokens.to(self._device, self._parts.unet.dtype))
        shape = (1, self._parts.unet.config.in_channels, *self._latent_size(parameters))
        generator = torch.Generator("cpu").manual_seed(parameters.seed + index)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        table = self._table(parameters.scheduler, parameters.num_inference_steps)
        picture = parameters.width, parameters.height
        return running.start(table, conditions, weights, noise[0].to(self._device), picture)

    @torch.inference_mode()
    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        """One UNet call for all rows of ``samples``, padded to ``bucket`` rows.

        The samples, all of one size and with steps left, move one step on. Nothing here waits for
        the device.
        """
        unet = self._parts.unet
        count = sum(sample.rows for sample in samples)
        rows = running.gather(samples, max(count, bucket or 0))
        latents = rows.latents.to(unet.dtype, memory_format=torch.channels_last)
        predicted = unet(latents, rows.timesteps, rows.conditions, return_dict=False)[0]
        running.advance(samples, rows, predicted)
        return self._mark()

    @torch.inference_mode()
    def decode(self, samples: Sequence[Sample]) -> list[Decoded]:
        """The pictures of finished ``samples`` of one size, in their order.

        One whose numbers are not finite has an ``error`` instead of a picture; one that the safety
        checker stops has neither.
        """
        vae = self._parts.vae
        latents = torch.stack([sample.latents for sample in samples])
        scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
        values = vae.decode(scaled, return_dict=False)[0].float()
        finite = values.isfinite().flatten(1).all(dim=1).tolist()
        pixels = (values / 2 + 0.5).clamp(0, 1).nan_to_num(0).mul(255).round().to(torch.uint8)
        pictures = pixels.permute(0, 2, 3, 1).cpu().numpy()
        flagged = self._flag(pictures)
        return [_decoded(*each) for each in zip(pictures, finite, flagged, strict=True)]

    def generate(
        self,
        picture: NDArray[np.uint8],
        parameters: Parameters,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Decoded]:
        """All variations of ``picture`` at once; ``progress`` hears of steps done and in all."""
        embedding = self.encode(picture, parameters.fit)
        samples = [self.start(embedding, parameters, index) for index in range(parameters.n)]
        while samples[0].steps_left:
            self.step(samples).wait()
            if progress:
                progress(samples[0].position, samples[0].steps)
        return self.decode(samples)

    def _flag(self, pictures: NDArray[np.uint8]) -> list[bool]:
        checker = self._parts.safety_checker
        if checker is None:
            return [False] * len(pictures)
        return flag(pictures, checker, self._parts.feature_extractor)

    def _latent_size(self, parameters: Parameters) -> tuple[int, int]:
        return parameters.height // self._scale, parameters.width // self._scale

    def _mark(self) -> Step:
        if self._device.type != "cuda":
            return Step()
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return Step(event)


def _decoded(picture: NDArray[np.uint8], finite: bool, flagged: bool) -> Decoded:
    if not finite:
        return Decoded(None, error=_NOT_FINITE)
    return Decoded(None if flagged else picture, flagged)


def _weights(guidance_scale: float) -> tuple[float, ...]:
    """Weights of the rows (condition, zero): ``u + g·(c − u) = g·c + (1 − g)·u``."""
    return (guidance_scale, 1 - guidance_scale) if guidance_scale > 1 else (1.0,)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"there is no device {name!r} here; VARIATIONS_DEVICE is auto, cpu, cuda or cuda:N"
        ) from error


def _dtype(name: str, device: torch.device, recipe: Known) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        return torch.float16
    if recipe.cpu_dtype:
        return _dtype(recipe.cpu_dtype, device, recipe)
    native = torch.cpu.get_capabilities()
    return torch.bfloat16 if native.get("amx_bf16") or native.get("avx512_bf16") else torch.float32


def _save_memory(checkpoint: Checkpoint, attention_slicing: str, *, vae_slicing: bool) -> None:
    if attention_slicing != "off":
        checkpoint.unet.set_attention_slice(attention_slicing)
    if vae_slicing:
        checkpoint.vae.enable_slicing()


def _checked_sizes(
    checkpoint: Checkpoint, sizes: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """The sizes offered, or the checkpoint's own; every one must fit the UNet's resolutions."""
    scale = 2 ** (len(checkpoint.vae.config.block_out_channels) - 1)
    side = checkpoint.unet.config.sample_size * scale
    unit = scale * 2 ** (len(checkpoint.unet.config.block_out_channels) - 1)
    for width, height in sizes:
        if min(width, height) < unit or width % unit or height % unit:
            raise CheckpointError(
                f"this checkpoint cannot make pictures of {width}x{height}; "
                f"VARIATIONS_SIZES takes multiples of {unit}"
            )
    return sizes or ((side, side),)
