"""Conditions become rows: each distinct picture is encoded and folded once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import GenerationFailed
from app.parameters import Condition, EncoderInput
from app.pipeline.folding import Fold

Embedding = NDArray[np.float32]
"""A picture's projected CLIP embedding, not normalised: ``float32 [projection]``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One UNet input of a sample: a folded condition ``[1, channels]`` and the output's weight."""

    condition: Tensor
    weight: float


@torch.inference_mode()
def encode(encoder: Any, pixels: EncoderInput) -> Embedding:
    """The embedding that ``encoder``, a CLIP vision tower with projection, makes of ``pixels``.

    Raises :class:`GenerationFailed` where it is not finite.
    """
    batch = torch.tensor(pixels)[None].to(encoder.device, encoder.dtype)
    embedding: Embedding = encoder(batch).image_embeds[0].float().cpu().numpy()
    if not np.isfinite(embedding).all():
        raise GenerationFailed("the picture's embedding is not finite; try another picture")
    return embedding


class Conditions:
    """Folds conditions for one UNet; the zero embedding of ``length`` numbers is folded once."""

    def __init__(
        self, encode: Callable[[EncoderInput], Embedding], fold: Fold, length: int
    ) -> None:
        self._encode = encode
        self._fold = fold
        self._zero = fold(torch.zeros(length))

    def rows(self, condition: Condition) -> tuple[Row, ...]:
        """The condition's rows in their order; rows with the same array share its vector."""
        pictures = {id(row.picture): row.picture for row in condition.rows}
        folded = {key: self._folded(picture) for key, picture in pictures.items()}
        return tuple(Row(folded[id(row.picture)], row.weight) for row in condition.rows)

    def _folded(self, picture: EncoderInput | None) -> Tensor:
        if picture is None:
            return self._zero
        return self._fold(torch.from_numpy(self._encode(picture)))
