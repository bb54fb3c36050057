"""Rows, and the embeddings that their conditions are made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import GenerationFailed
from app.parameters import EncoderInput

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
