"""Samples, and the step that takes any of them forward together.

A step is: gather → scale → UNet → weighted sum of rows → one multiply-add over each sample's short
history. Samples may be at different steps, of different solvers and of different numbers of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from app.parameters import ALL_CALLS, Embedding, Phases, Size
from app.pipeline.denoiser import Denoiser
from app.pipeline.devices import event_now, sent
from app.pipeline.solver import OUTPUT_TERMS, SAMPLE_TERMS, SolverTable


@dataclass(frozen=True, slots=True)
class Row:
    """One UNet input of a sample, in some of its calls.

    A folded condition ``[1, channels]``, and the output's weight. ``embeddings`` are those of the
    pictures that it looks at.
    """

    condition: Tensor
    weight: float
    embeddings: tuple[Embedding, ...] = ()
    calls: range = ALL_CALLS


@dataclass(slots=True, eq=False)
class Sample:
    """One picture being denoised.

    ``size`` is in pixels. ``conditions`` are the rows of each UNet call, ``times`` their folded
    timesteps, ``[channels]`` each on the device, which samples of one table share. ``position``
    counts the UNet calls that are done. ``history`` is what the next multiply-add looks back on,
    ``float32 [7 − 1, C, h, w]`` on the device: ``x[i], x[i−1], x[i−2]``, then ``e[i−1], … e[i−3]``.
    :func:`step` replaces both.
    """

    size: Size
    conditions: tuple[tuple[Row, ...], ...]
    table: SolverTable
    times: Sequence[Tensor]
    history: Tensor
    position: int = 0

    @classmethod
    def starting(
        cls,
        latents: Tensor,
        size: Size,
        rows: Sequence[Row],
        table: SolverTable,
        times: Sequence[Tensor],
    ) -> "Sample":
        """A sample before its first step, from latents ``[C, h, w]`` as the table begins with."""
        history = latents.new_zeros(SAMPLE_TERMS + OUTPUT_TERMS - 1, *latents.shape)
        history[0] = latents
        return cls(size, _by_call(rows, table.calls), table, times, history)

    @property
    def latents(self) -> Tensor:
        """The sample as it is, ``float32 [C, h, w]`` on the device."""
        return self.history[0]

    @property
    def condition(self) -> tuple[Row, ...]:
        """The rows of its next step."""
        return self.conditions[self.position]

    @property
    def rows(self) -> int:
        """UNet inputs that its next step takes."""
        return len(self.condition)

    @property
    def phases(self) -> Phases:
        """The UNet inputs of all its calls."""
        rows = map(len, self.conditions)
        return tuple((len(list(equal)), each) for each, equal in groupby(rows))

    @property
    def steps(self) -> int:
        """UNet calls from start to picture; some solvers need more than they are said to have."""
        return self.table.calls

    @property
    def steps_left(self) -> int:
        """UNet calls still to come; 0 means ready for decoding."""
        return self.table.calls - self.position


def _by_call(rows: Sequence[Row], calls: int) -> tuple[tuple[Row, ...], ...]:
    """Those of the ``rows`` that each call has."""
    return tuple(tuple(row for row in rows if call in row.calls) for call in range(calls))


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was handed to the device; ``event`` is CUDA's at its end, or none."""

    rows: int
    bucket: int
    event: Any = None

    def wait(self) -> None:
        """Wait until the device has done it. On a CPU it already has."""
        if self.event is not None:
            self.event.synchronize()


@torch.inference_mode()
def step(
    samples: Sequence[Sample], denoiser: Denoiser, device: torch.device, bucket: int | None = None
) -> Step:
    """Take every sample one step further with one UNet call, without waiting for the device.

    ``bucket`` pads the call to that many rows. Where this raises (out of memory, say) no sample has
    changed, so the step can be tried again in parts.
    """
    _check(samples)
    send = partial(sent, device=device)
    rows = [row.condition for sample in samples for row in sample.condition]
    # Padding repeats the first sample's first row; nobody reads what comes out of it.
    padding = (bucket or 0) - len(rows)
    rows += [rows[0]] * padding
    times = [sample.times[sample.position] for sample in samples for _ in sample.condition]
    times += [times[0]] * padding
    owners = [i for i, sample in enumerate(samples) for _ in sample.condition]
    sample_of_row = send(torch.tensor(owners + [0] * padding))
    rows_of_sample = send(torch.tensor(_rows_of_samples(samples)))
    numbers = send(torch.tensor(_numbers(samples), dtype=torch.float32))
    scales, coefficients, weights = numbers.tensor_split((1, _WEIGHTS), dim=1)
    history = torch.stack([sample.history for sample in samples])
    inputs = history[:, 0] * scales[:, :, None, None]
    predictions = denoiser(inputs[sample_of_row], torch.stack(times), torch.stack(rows))
    outputs = _weighted_sum(predictions[rows_of_sample], weights)
    moved = _moved(history, outputs, coefficients)
    event = event_now(device)  # which may fail, and who has moved by then would move twice
    for sample, own_history in zip(samples, moved.unbind(), strict=True):
        sample.history = own_history
        sample.position += 1
    return Step(len(owners), len(rows), event)


def _check(samples: Sequence[Sample]) -> None:
    if len({sample.size for sample in samples}) != 1:
        raise ValueError("a step takes one or more samples, all of one size")
    if any(sample.steps_left == 0 for sample in samples):
        raise ValueError("a sample without steps left cannot be stepped")


# A sample's numbers: the input scale, the solver's coefficients, then the weights.
_WEIGHTS = 1 + SAMPLE_TERMS + OUTPUT_TERMS


def _numbers(samples: Sequence[Sample]) -> list[list[float]]:
    """The plain numbers of each sample's step, with as many weights as the most rows have."""
    most = max(sample.rows for sample in samples)
    numbers = []
    for sample in samples:
        table, i = sample.table, sample.position
        weights = [row.weight for row in sample.condition] + [0.0] * (most - sample.rows)
        numbers.append([float(table.input_scales[i]), *table.coefficients[i].tolist(), *weights])
    return numbers


def _rows_of_samples(samples: Sequence[Sample]) -> list[list[int]]:
    """For each sample the indices of as many rows as the one with the most has.

    The missing are the sample's own first row again, with weight 0: numbers that are not finite
    stay within the sample that they come from.
    """
    most = max(sample.rows for sample in samples)
    firsts = accumulate((sample.rows for sample in samples), initial=0)
    return [
        [first + (k if k < sample.rows else 0) for k in range(most)]
        for sample, first in zip(samples, firsts, strict=False)
    ]


def _moved(history: Tensor, outputs: Tensor, coefficients: Tensor) -> Tensor:
    """The histories ``[N, terms − 1, C, h, w]`` after one multiply-add.

    Of ``x[i], x[i−1], x[i−2], e[i], … e[i−3]``, the oldest of each kind makes room.
    """
    samples, earlier = history[:, :SAMPLE_TERMS], history[:, SAMPLE_TERMS:]
    terms = torch.cat([samples, outputs[:, None], earlier], dim=1)
    following = _weighted_sum(terms, coefficients)
    return torch.cat(
        [following[:, None], terms[:, : SAMPLE_TERMS - 1], terms[:, SAMPLE_TERMS:-1]], 1
    )


def _weighted_sum(terms: Tensor, weights: Tensor) -> Tensor:
    """``[N, K, …]`` and ``[N, K]`` to ``[N, …]``, each element summed in the order of K.

    A reduction or a matrix product may sum in another order when N changes, and so in the last bit
    let a picture depend on its company.
    """
    return reduce(torch.add, (terms * weights[:, :, None, None, None]).unbind(1))
