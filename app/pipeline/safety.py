"""The safety checker, asked exactly as the reference pipeline asks it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.pictures import Picture


@dataclass(frozen=True, slots=True)
class Verdict:
    """``sound`` is false where the checker's numbers are not finite, so that nothing is known.

    Such numbers compare as below every threshold: the checker itself would let the picture pass.
    """

    flagged: bool
    sound: bool


class Safety:
    """A checkpoint's safety checker with its feature extractor."""

    def __init__(self, checker: Any, feature_extractor: Any) -> None:
        self._checker = checker
        self._feature_extractor = feature_extractor
        self._sound: list[bool] = []
        checker.visual_projection.register_forward_hook(self._note_soundness)

    @torch.inference_mode()
    def check(self, pictures: Sequence[Picture]) -> list[Verdict]:
        """Judge rounded 8-bit pictures ``[H, W, 3]``, together."""
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self._feature_extractor(images, return_tensors="pt").pixel_values
        weight = self._checker.visual_projection.weight
        # The checker blackens what it flags in the list it is given: not these pictures.
        blackened: list[Picture] = [np.zeros(1, np.uint8) for _ in pictures]
        _, flags = self._checker(
            clip_input=pixels.to(weight.device, weight.dtype), images=blackened
        )
        return [Verdict(bool(f), s) for f, s in zip(flags, self._sound, strict=True)]

    def _note_soundness(self, _module: object, _inputs: object, embeddings: Tensor) -> None:
        self._sound = embeddings.isfinite().all(dim=1).tolist()
