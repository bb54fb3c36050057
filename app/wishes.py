"""What a caller asks for, and the parameters that it comes to with a checkpoint."""

import math
import secrets
from dataclasses import dataclass
from typing import TypeVar

from app.errors import InvalidParameter
from app.parameters import MAX_SEED, Fit, Mix, ModelInfo, Parameters, Scheduler, Size

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wishes:
    """A caller's request; ``None`` leaves a value to the checkpoint, and the seed to chance."""

    n: int = 1
    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    scheduler: Scheduler | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit | None = None
    weight: tuple[float, ...] = (1.0,)
    mix: Mix | None = None
    negative_image: bool = False
    guidance_start: float | None = None
    guidance_end: float | None = None
    strength: float | None = None

    def resolve(self, model: ModelInfo) -> Parameters:
        """Every default filled in, and the weights in sum 1.

        Raises :class:`InvalidParameter` for a size or solver not offered, for a seed, for a
        strength that leaves no step, and for what goes with guidance where there is none.
        """
        width, height = self._size(model)
        parameters = model.defaults(
            n=self.n,
            guidance_scale=_given(self.guidance_scale, model.guidance_scale),
            num_inference_steps=_given(self.num_inference_steps, model.num_inference_steps),
            scheduler=self._scheduler(model),
            seed=self._seed(),
            width=width,
            height=height,
            fit=_given(self.fit, model.fit),
            weight=_shares(self.weight),
            mix=_given(self.mix, Mix.EMBEDDING),
            negative_image=self.negative_image,
            guidance_start=_given(self.guidance_start, 0.0),
            guidance_end=_given(self.guidance_end, 1.0),
            strength=self.strength,
        )
        self._check_strength(parameters)
        self._check_guidance(parameters)
        return parameters

    def _check_strength(self, parameters: Parameters) -> None:
        steps, strength = parameters.num_inference_steps, parameters.strength
        if strength is not None and int(steps * strength) < 1:
            least = math.ceil(1000 / steps) / 1000
            raise InvalidParameter(
                f"Of {steps} steps a strength of {strength:g} leaves none: it must be at least "
                f"{least:g}, or num_inference_steps greater",
                field="strength",
            )

    def _check_guidance(self, parameters: Parameters) -> None:
        start, end = parameters.guidance_start, parameters.guidance_end
        if start >= end:
            raise InvalidParameter(
                f"Guidance begins at {start:g} and ends at {end:g} of the steps: guidance_start "
                "must be less than guidance_end",
                field="guidance_end" if self.guidance_start is None else "guidance_start",
            )
        scale = parameters.guidance_scale
        for field in ("negative_image", "guidance_start", "guidance_end"):
            if scale <= 1 and getattr(self, field):
                raise InvalidParameter(
                    f"{field} says where guidance leads, and there is none with a guidance_scale "
                    f"of {scale:g}: it must be more than 1",
                    field=field,
                )
        if scale > 1 and not parameters.guided:
            raise InvalidParameter(
                f"No step lies between {start:g} and {end:g} of {parameters.calls}: guidance_end "
                "must be further from guidance_start",
                field="guidance_end",
            )

    def _scheduler(self, model: ModelInfo) -> Scheduler:
        scheduler = _given(self.scheduler, model.scheduler)
        if scheduler not in model.schedulers:
            offered = ", ".join(each.value for each in model.schedulers)
            raise InvalidParameter(
                f"{scheduler.value} is not offered with this checkpoint; "
                f"scheduler can be {offered}",
                field="scheduler",
            )
        return scheduler

    def _size(self, model: ModelInfo) -> Size:
        default_width, default_height = model.sizes[0]
        size = (_given(self.width, default_width), _given(self.height, default_height))
        if size not in model.sizes:
            offered = ", ".join(f"{width}x{height}" for width, height in model.sizes)
            raise InvalidParameter(
                f"Pictures of {size[0]}x{size[1]} are not offered; width x height can be {offered}",
                field="height" if self.width is None else "width",
            )
        return size

    def _seed(self) -> int:
        """The first seed; the last one, seed + n - 1, can be asked for by itself as well."""
        highest = MAX_SEED - (self.n - 1)
        seed = _given(self.seed, secrets.randbelow(highest + 1))
        if seed > highest:
            raise InvalidParameter(
                f"Variation i has seed + i, so with n={self.n} the seed can be at most {highest}",
                field="seed",
            )
        return seed


def _shares(weights: tuple[float, ...]) -> tuple[float, ...]:
    """The same in sum 1; by the largest first, since the sum may be no number any more."""
    scaled = [weight / max(weights) for weight in weights]
    return tuple(weight / sum(scaled) for weight in scaled)


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
