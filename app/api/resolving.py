"""A form becomes parameters: what it leaves open is the checkpoint's, or random."""

import secrets
from typing import TypeVar

from app.api.schemas import VariationsForm
from app.errors import InvalidParameter
from app.parameters import MAX_SEED, ModelInfo, Parameters

T = TypeVar("T")


def resolve(form: VariationsForm, model: ModelInfo) -> Parameters:
    """Every default resolved. Raises :class:`InvalidParameter` for a size or a seed."""
    width, height = _size(form, model)
    return Parameters(
        n=form.n,
        guidance_scale=_given(form.guidance_scale, model.guidance_scale),
        num_inference_steps=_given(form.num_inference_steps, model.num_inference_steps),
        scheduler=_given(form.scheduler, model.scheduler),
        seed=_seed(form),
        width=width,
        height=height,
        fit=_given(form.fit, model.fit),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _size(form: VariationsForm, model: ModelInfo) -> tuple[int, int]:
    default_width, default_height = model.sizes[0]
    size = (_given(form.width, default_width), _given(form.height, default_height))
    if size not in model.sizes:
        offered = ", ".join(f"{width}x{height}" for width, height in model.sizes)
        raise InvalidParameter(
            f"Pictures of {size[0]}x{size[1]} are not offered; width x height can be {offered}",
            field="height" if form.width is None else "width",
        )
    return size


def _seed(form: VariationsForm) -> int:
    """The first seed; the last one, seed + n - 1, can be asked for by itself as well."""
    highest = MAX_SEED - (form.n - 1)
    seed = _given(form.seed, secrets.randbelow(highest + 1))
    if seed > highest:
        raise InvalidParameter(
            f"Variation i has seed + i, so with n={form.n} the seed can be at most {highest}",
            field="seed",
        )
    return seed
