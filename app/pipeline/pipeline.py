"""The pipeline: a picture in, variations of it out, in steps that others can share."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import CheckpointError, GenerationFailed
from app.parameters import (
    Condition,
    EncoderInput,
    ModelConfig,
    ModelInfo,
    Parameters,
    Scheduler,
    Size,
)
from app.pictures.fit import Preprocessing
from app.pipeline.attention import Shape
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.conditions import rows_of
from app.pipeline.decoding import decode
from app.pipeline.denoiser import Denoiser
from app.pipeline.devices import (
    choose_device,
    choose_dtypes,
    fetched,
    one_thread_if_small,
    place,
    sent,
)
from app.pipeline.folding import fold
from app.pipeline.hub import Report, find_checkpoint, identity
from app.pipeline.known import known
from app.pipeline.previews import Previewer, Previews
from app.pipeline.safety import Decoded, Safety
from app.pipeline.samples import Row, Sample, Step, step
from app.pipeline.selfcheck import deviations
from app.pipeline.served import ServedUNet
from app.pipeline.solvers import Solvers
from app.pipeline.starting import Posterior, posterior, start_latents
from app.pipeline.training_index import TrainingIndex

TIMES_KEPT = 16
"""Solver tables whose folded timesteps are kept on the device: about a megabyte each."""

logger = logging.getLogger(__name__)


class Pipeline:
    """A loaded checkpoint, all its parts on one device. Not to be called from two threads at once.

    >>> pipeline = Pipeline.load(ModelConfig("demo"))
    >>> pixels = pipeline.preprocessing(picture, Fit.SQUASH)
    >>> rows = pipeline.condition(Condition.guided(pixels, parameters.guidance_scale))
    >>> samples = [pipeline.start(rows, parameters, i) for i in range(parameters.n)]
    >>> while samples[0].steps_left:
    ...     pipeline.step(samples)
    >>> pictures = [decoded.picture for decoded in pipeline.decode(samples)]
    """

    def __init__(
        self,
        model: ModelInfo,
        parts: Parts,
        solvers: Solvers,
        device: torch.device,
        preprocessing: Preprocessing,
        training_index: TrainingIndex | None = None,
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self._parts = parts
        self._device = device
        self._fold = fold(parts.unet)
        self._zero = self._fold(torch.zeros(parts.unet.config.cross_attention_dim))
        shapes = [self._latents(size) for size in model.sizes]
        self._unet = ServedUNet(parts.unet, self._zero, shapes)
        self._times = lru_cache(TIMES_KEPT)(self._folded_times)
        checker = parts.safety_checker
        self._safety = Safety(checker, parts.feature_extractor) if checker is not None else None
        self._solvers = solvers
        self._training_index = training_index

    @classmethod
    def load(cls, config: ModelConfig, progress: Report | None = None) -> Self:
        """Load a checkpoint, downloaded if it is a hub id that is not here.

        ``progress`` is told ``("downloading", fraction)`` and ``("loading", None)``. Raises
        :class:`CheckpointError` where this cannot be served.
        """
        report = progress or (lambda stage, fraction: None)
        device = choose_device(config.device)
        index = TrainingIndex.of(config, device)
        name, revision = identity(config)
        folder = find_checkpoint(
            config.model, revision, report, safety_checker=config.safety_checker
        )
        defaults = known(config.model, folder)
        dtypes = choose_dtypes(config.dtype, device, defaults.cpu_dtype)
        report("loading", None)
        parts = load_parts(folder, dtypes, config.safety_checker)
        solvers = Solvers(parts.scheduler_config, defaults.num_inference_steps, defaults.scheduler)
        info = ModelInfo(
            id=name,
            revision=revision,
            guidance_scale=defaults.guidance_scale,
            num_inference_steps=defaults.num_inference_steps,
            scheduler=solvers.default,
            schedulers=solvers.offered,
            fit=defaults.fit,
            sizes=_offered(parts, config.sizes),
            device=str(device),
            dtype=str(dtypes.unet).removeprefix("torch."),
            safety_checker=parts.safety_checker is not None,
            near_duplicate_threshold=index.threshold if index else None,
        )
        place(parts, device, config)
        preprocessing = parts.preprocessing(antialias=defaults.antialias)
        pipeline = cls(info, parts, solvers, device, preprocessing, index)
        pipeline._unet.choose(graphs=config.cuda_graphs, compilable=config.compile)
        return pipeline

    def dtype(self, part: str) -> torch.dtype:
        """The number type of ``unet``, ``vae``, ``image_encoder`` or ``safety_checker``."""
        dtype: torch.dtype = getattr(self._parts, part).dtype
        return dtype

    @torch.inference_mode()
    def deviations(self) -> Iterator[tuple[str, float]]:
        """The parts that are not served in float32 on the CPU, and how far off they are from that.

        See :func:`app.pipeline.selfcheck.deviations`.
        """
        width = self._parts.unet.config.cross_attention_dim
        embedding = torch.randn(width, generator=torch.Generator().manual_seed(0))
        conditions = torch.stack([self._fold(embedding), self._zero])
        fold_time, denoiser = self._unet.fold_time, self._unet.denoiser
        return deviations(self._parts.unet, self._parts.vae, fold_time, denoiser, conditions)

    def fewest_steps(self, least: int) -> int:
        """The smallest number of steps from ``least`` on that the default solver surely makes."""
        return self._solvers.fewest_steps(least)

    def prepare(self, buckets: Iterable[int], *, tune: bool) -> None:
        """Get a GPU ready for steps of so many rows: :meth:`.served.ServedUNet.prepare`."""
        self._unet.prepare(buckets, tune=tune)

    @property
    def attention(self) -> Mapping[Shape, str]:
        """Kernels that were measured to be the fastest, by shape; nothing on a CPU."""
        return self._unet.attention

    def compiled(self) -> Denoiser:
        """The UNet call compiled, where the configuration asks for it; meanwhile others may step.

        See :meth:`.served.ServedUNet.compiled`.
        """
        return self._unet.compiled()

    def take(self, denoiser: Denoiser) -> None:
        """Step with what :meth:`compiled` has made."""
        self._unet.take(denoiser)

    def free_memory(self) -> None:
        """Give back to the device what the allocator keeps for later, to be tried anew."""
        self._unet.free_memory()

    @torch.inference_mode()
    def encode(self, *pixels: EncoderInput) -> NDArray[np.float32]:
        """The projected CLIP embeddings of fitted pictures, ``[N, projection]``, not normalised.

        Raises :class:`GenerationFailed` where one is not finite.
        """
        encoder = self._parts.image_encoder
        batch = sent(torch.from_numpy(np.stack(pixels)).to(encoder.dtype), encoder.device)
        with one_thread_if_small(encoder):
            embeddings: NDArray[np.float32] = fetched(encoder(batch).image_embeds.float()).numpy()
        if not np.isfinite(embeddings).all():
            raise GenerationFailed("the picture's embedding is not finite; try another picture")
        return embeddings

    def condition(self, condition: Condition) -> tuple[Row, ...]:
        """The rows of each sample of a request."""
        [rows] = self.conditions([condition])
        return rows

    def conditions(self, conditions: Sequence[Condition]) -> list[tuple[Row, ...]]:
        """The rows of several requests' samples, see :func:`app.pipeline.conditions.rows_of`."""
        width = self._parts.unet.config.cross_attention_dim
        return rows_of(conditions, width, self.encode, self._fold, self._zero)

    def build_table(self, parameters: Parameters, seconds: float) -> bool:
        """Build on a request's solver table for about so many seconds; False: more is needed.

        Without it :meth:`start` builds a table that is not there.
        """
        return self._solvers.build(*parameters.table, seconds)

    def posterior(self, picture: NDArray[np.uint8]) -> Posterior:
        """What samples begin from, see :func:`app.pipeline.starting.posterior`."""
        return posterior(picture, self._parts.vae)

    @torch.inference_mode()
    def start(
        self,
        rows: Sequence[Row],
        parameters: Parameters,
        index: int,
        begins_from: Posterior | None = None,
    ) -> Sample:
        """Variation ``index`` of a request before its first step.

        Raises :class:`InvalidParameter` where its solver cannot make its number of steps.
        """
        table = self._solvers.table(*parameters.table)
        if self._device.type == "cuda":  # made on another stream, maybe: must outlast our steps
            for made in (*(row.condition for row in rows), *(begins_from or ())):
                made.record_stream(torch.cuda.current_stream(self._device))
        size, seed = parameters.size, parameters.seed_of(index)
        latents = start_latents(seed, self._latents(size), table, begins_from, self._device)
        return Sample.starting(latents, size, rows, table, self._times(*parameters.table))

    def _folded_times(
        self, scheduler: Scheduler, steps: int, begin: int | None
    ) -> tuple[Tensor, ...]:
        """The folded timesteps of a table's UNet calls, made together: no request's company, and no
        other table, changes a bit of them.
        """
        timesteps = torch.from_numpy(self._solvers.table(scheduler, steps, begin).timesteps)
        times: Tensor = self._unet.fold_time(sent(timesteps, self._device))
        return times.unbind()

    def step(self, samples: Sequence[Sample], bucket: int | None = None) -> Step:
        """Take ``samples``, all of one size, a step further in one UNet call.

        The call is padded to ``bucket`` rows: always the same bucket makes the same bytes.
        Returns before the device is done; :meth:`Step.wait` waits for it. Where this raises no
        sample has changed.
        """
        return step(samples, self._unet.denoiser, self._device, bucket)

    @cached_property
    def _previewer(self) -> Previewer:
        return Previewer(self._parts.vae)

    def preview(self, samples: Sequence[Sample]) -> Previews:
        """Rough pictures of samples of one size that have had their first step.

        Returns before the device is done. The first call fits them to the checkpoint, which takes
        the time of a picture.
        """
        return self._previewer.previews(samples)

    def decode(
        self, samples: Sequence[Sample], before_check: Callable[[], None] | None = None
    ) -> list[Decoded]:
        """The pictures of samples of one size, decoded together and checked: for safety, and
        against the training pictures where there is an index of them.

        ``before_check`` is called in between.
        """
        latents = [sample.latents for sample in samples]
        decoded = decode(latents, self._parts.vae, self._safety, before_check)
        return self._training_index.mark(decoded) if self._training_index else decoded

    def generate(
        self,
        condition: Condition,
        parameters: Parameters,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Decoded]:
        """All of a request's pictures; ``progress`` is told the steps done and those in all."""
        rows = self.condition(condition)
        origin = None if condition.start is None else self.posterior(condition.start)
        samples = [self.start(rows, parameters, index, origin) for index in range(parameters.n)]
        for done in range(1, samples[0].steps + 1):
            self.step(samples).wait()
            if progress:
                progress(done, samples[0].steps)
        return self.decode(samples)

    def _latents(self, size: Size) -> tuple[int, int, int]:
        """The shape ``[C, h, w]`` of the latents of a picture of ``size`` pixels."""
        width, height = (pixels // self._parts.vae_scale for pixels in size)
        return self._parts.unet.config.in_channels, height, width


def _offered(parts: Parts, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """``sizes`` or the checkpoint's own, each such that the UNet can halve it and come back."""
    unit = parts.size_unit
    for size in sizes:
        fitting = tuple(max(unit, round(pixels / unit) * unit) for pixels in size)
        if size != fitting:
            raise CheckpointError(
                f"this model makes pictures whose sides are multiples of {unit} pixels: "
                f"not {size[0]}x{size[1]}, but {fitting[0]}x{fitting[1]}, say"
            )
    latents = parts.unet.config.sample_size
    height, width = (latents, latents) if isinstance(latents, int) else latents
    return sizes or ((width * parts.vae_scale, height * parts.vae_scale),)
