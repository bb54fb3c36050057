"""Running samples: the pictures being denoised, each with its own solver, step and guidance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.pipeline.solver import OUTPUT_TERMS, SAMPLE_TERMS, SolverTable


@dataclass(slots=True, eq=False)
class Sample:
    """One picture being denoised.

    Row ``r`` of its ``rows`` is the UNet under ``conditions[r]`` (``[rows, Σ channels]``, see
    :class:`~app.pipeline.folding.Folding`); the outputs are summed with ``weights`` ``[rows]``.
    ``samples`` ``[SAMPLE_TERMS, C, h, w]`` holds the latents and their predecessors, newest first,
    and ``outputs`` ``[OUTPUT_TERMS − 1, C, h, w]`` the last summed outputs; all float32, on the
    device, zero where there is nothing yet. ``size`` is the picture's ``(width, height)``.
    """

    table: SolverTable
    conditions: Tensor
    weights: tuple[float, ...]
    samples: Tensor
    outputs: Tensor
    size: tuple[int, int]
    position: int = 0

    @property
    def latents(self) -> Tensor:
        """The latents as they are now, float32 ``[C, h, w]``."""
        return self.samples[0]

    @property
    def rows(self) -> int:
        """UNet inputs a step."""
        return len(self.weights)

    @property
    def steps(self) -> int:
        """UNet calls from noise to picture."""
        return self.table.calls

    @property
    def steps_left(self) -> int:
        """UNet calls until the latents can be decoded."""
        return self.table.calls - self.position


def start(
    table: SolverTable,
    conditions: Tensor,
    weights: tuple[float, ...],
    noise: Tensor,
    size: tuple[int, int],
) -> Sample:
    """A sample before its first step; ``noise`` is unit noise, float32 ``[C, h, w]``."""
    samples = noise.new_zeros(SAMPLE_TERMS, *noise.shape)
    samples[0] = noise * table.noise_scale
    outputs = noise.new_zeros(OUTPUT_TERMS - 1, *noise.shape)
    return Sample(table, conditions, weights, samples, outputs, size)


@dataclass(frozen=True, slots=True)
class Rows:
    """The UNet's inputs for one step, padded to the bucket by repeating the last row.

    ``latents`` ``[bucket, C, h, w]`` float32 and scaled, ``timesteps`` ``[bucket]`` float32,
    ``conditions`` ``[bucket, 1, Σ channels]``; ``owners`` and ``weights`` ``[rows]`` say which
    sample a row belongs to and what it counts.
    """

    latents: Tensor
    timesteps: Tensor
    conditions: Tensor
    owners: Tensor
    weights: Tensor


def gather(samples: Sequence[Sample], bucket: int) -> Rows:
    """The rows of all ``samples``, sample by sample."""
    device = samples[0].samples.device
    owners = [i for i, sample in enumerate(samples) for _ in range(sample.rows)]
    padded = owners + owners[-1:] * (bucket - len(owners))
    numbers = [
        (sample.table.timesteps[sample.position], sample.table.input_scales[sample.position])
        for sample in samples
    ]
    timesteps, scales = torch.tensor([numbers[i] for i in padded]).to(device, non_blocking=True).T
    index = torch.tensor(padded).to(device, non_blocking=True)
    conditions = torch.cat([sample.conditions for sample in samples])
    filled = torch.cat([conditions, conditions[-1:].expand(bucket - len(owners), -1)])
    latents = torch.stack([sample.latents for sample in samples])
    return Rows(
        latents[index] * scales.view(-1, 1, 1, 1),
        timesteps,
        filled.unsqueeze(1),
        index[: len(owners)],
        torch.tensor([w for sample in samples for w in sample.weights]).to(
            device, non_blocking=True
        ),
    )


def advance(samples: Sequence[Sample], rows: Rows, predicted: Tensor) -> None:
    """Move every sample one step on, given the UNet's output ``[bucket, C, h, w]`` for ``rows``."""
    count = len(rows.owners)
    weighted = predicted[:count].float() * rows.weights.view(-1, 1, 1, 1)
    shape = (len(samples), *predicted.shape[1:])
    output = weighted.new_zeros(shape).index_add_(0, rows.owners, weighted)
    past = torch.stack([torch.cat([sample.samples, sample.outputs]) for sample in samples])
    terms = torch.cat([past[:, :SAMPLE_TERMS], output[:, None], past[:, SAMPLE_TERMS:]], dim=1)
    coefficients = torch.stack(
        [torch.from_numpy(sample.table.coefficients[sample.position]) for sample in samples]
    ).to(predicted.device, non_blocking=True)
    # A sum of products rather than a matrix product: CUDA may round those to TF32.
    following = (terms * coefficients[..., None, None, None]).sum(dim=1)
    kept_samples = torch.cat([following[:, None], terms[:, : SAMPLE_TERMS - 1]], dim=1)
    kept_outputs = terms[:, SAMPLE_TERMS:-1]
    for i, sample in enumerate(samples):
        sample.samples, sample.outputs = kept_samples[i], kept_outputs[i]
        sample.position += 1
