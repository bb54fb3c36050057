"""From what requests ask the model to look at to the rows of their samples."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import GenerationFailed
from app.parameters import Condition, Embedding, EncoderInput, Mixture
from app.pipeline.folding import Fold
from app.pipeline.samples import Row

Encode = Callable[..., NDArray[np.float32]]
"""Fitted pictures to their embeddings ``[N, projection]``."""

_Mixed = tuple[tuple[int, float], ...]
"""A mixture by the identities of its pictures."""


def rows_of(
    conditions: Sequence[Condition], width: int, encode: Encode, fold: Fold, zero: Tensor
) -> list[tuple[Row, ...]]:
    """The rows of several requests' samples; ``zero`` is the zero embedding, folded.

    Every distinct picture is encoded once, all together, and every distinct sum of their
    embeddings, which have ``width`` numbers, is folded once. Raises :class:`GenerationFailed`
    where an embedding is not finite or of another width.
    """
    rows = [row for condition in conditions for row in condition.rows]
    pictures = {id(picture): picture for row in rows for picture, _ in row.pictures}
    embeddings = _embedded(pictures, width, encode)
    folded: dict[_Mixed, Tensor] = {(): zero}

    def folded_sum(pictures: Mixture) -> Tensor:
        mixed = tuple((id(picture), weight) for picture, weight in pictures)
        if mixed not in folded:
            weighted = [weight * torch.tensor(embeddings[name]) for name, weight in mixed]
            folded[mixed] = fold(torch.stack(weighted).sum(dim=0))
        return folded[mixed]

    return [
        tuple(
            Row(
                folded_sum(row.pictures),
                row.weight,
                tuple(embeddings[id(picture)] for picture, _ in row.pictures),
                row.calls,
            )
            for row in condition.rows
        )
        for condition in conditions
    ]


def _embedded(
    pictures: Mapping[int, EncoderInput | Embedding], width: int, encode: Encode
) -> dict[int, Embedding]:
    """The embeddings of those that are none yet, encoded together, and those that are."""
    embeddings = {name: each for name, each in pictures.items() if each.ndim == 1}
    for each in embeddings.values():
        if each.size != width:
            raise GenerationFailed(
                f"an embedding has {each.size} numbers, where this model takes {width}"
            )
    if unencoded := {name: each for name, each in pictures.items() if name not in embeddings}:
        embeddings |= zip(unencoded, encode(*unencoded.values()), strict=True)
    return {name: embeddings[name] for name in pictures}
