"""Where samples start: from noise, or from a picture's own latents with noise added to them.

The latter as diffusers' ``StableDiffusionImg2ImgPipeline`` does: with the same generator the
picture's latents and the noise are the same.
"""

from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor

from app.errors import GenerationFailed
from app.pipeline.devices import fetched, sent
from app.pipeline.solver import SolverTable


class Posterior(NamedTuple):
    """The latents that the VAE takes to be behind a picture: a normal distribution of each number.

    ``mean`` and ``std`` are ``float32 [C, h, w]`` on the device, in the solver's units.
    """

    mean: Tensor
    std: Tensor


@torch.inference_mode()
def posterior(picture: NDArray[Any], vae: Any) -> Posterior:
    """Encode a picture, ``uint8 [H, W, 3]``; waits for the device.

    Raises :class:`GenerationFailed` where the numbers leave the range of their type.
    """
    levels = sent(torch.from_numpy(picture), vae.device).permute(2, 0, 1)[None]
    pixels = (2 * (levels.float() / 255) - 1).to(vae.dtype, memory_format=torch.channels_last)
    moments = vae.encode(pixels).latent_dist.parameters.float()
    found = DiagonalGaussianDistribution(moments)
    if not fetched(moments.isfinite().all()).item():
        raise GenerationFailed(
            "the numbers left the range of their type while the picture was encoded; try another "
            "picture, or leave strength out"
        )
    scale = vae.config.scaling_factor
    return Posterior(scale * found.mean[0], scale * found.std[0])


def start_latents(
    seed: int,
    shape: tuple[int, int, int],
    table: SolverTable,
    begins_from: Posterior | None,
    device: torch.device,
) -> Tensor:
    """The latents ``float32 [C, h, w]`` before the first step.

    All is drawn on the CPU, so that a seed is the same on every device. Where they begin from a
    picture the first draw chooses among its latents.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Tensor:
        return sent(torch.randn(1, *shape, generator=generator)[0], device)

    if begins_from is None:
        return drawn() * table.noise_scale
    clean = begins_from.mean + begins_from.std * drawn()
    return clean * table.picture_scale + drawn() * table.noise_scale
