"""The safety checker, asked exactly as the reference pipeline asks it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from app.parameters import NearDuplicate
from app.pictures import Picture
from app.pipeline.devices import fetched, one_thread_if_small, sent

UNCHECKED = "the safety checker could not judge the picture: its numbers are not finite"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One finished variation: ``picture``, ``uint8 [height, width, 3]``, unless something is amiss.

    ``flagged`` pictures are withheld. ``error`` says, for the caller, why there is no picture
    though nothing was flagged: broken numbers are never handed on as a black picture.
    ``near_duplicate`` is there where it is a near-copy of a training picture, and that is looked
    for.
    """

    picture: Picture | None
    flagged: bool = False
    error: str | None = None
    near_duplicate: NearDuplicate | None = None


_JUDGING = (
    "concept_embeds",
    "concept_embeds_weights",
    "special_care_embeds",
    "special_care_embeds_weights",
)
"""What the checker compares embeddings with, one number at a time."""


class Safety:
    """A checkpoint's safety checker with its feature extractor.

    The pictures are embedded on the checker's device and judged on the CPU, so that the host waits
    for the device once: the checker reads each of its numbers by itself.
    """

    def __init__(self, checker: Any, feature_extractor: Any) -> None:
        self._checker = checker
        self._feature_extractor = feature_extractor
        self._sound: list[bool] = []
        for name in _JUDGING:
            numbers = getattr(checker, name).detach().cpu()
            setattr(checker, name, nn.Parameter(numbers, requires_grad=False))
        checker.visual_projection.register_forward_hook(self._fetch_embeddings)

    @torch.inference_mode()
    def check(self, pictures: Sequence[Picture]) -> list[Decoded]:
        """Judge rounded 8-bit pictures ``[H, W, 3]`` together; only the harmless are handed on."""
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self._feature_extractor(images, return_tensors="pt").pixel_values
        weight = self._checker.visual_projection.weight
        # The checker blackens what it flags in the list it is given: not these pictures.
        blackened: list[Picture] = [np.zeros(1, np.uint8) for _ in pictures]
        given = sent(pixels.to(weight.dtype), weight.device)
        with one_thread_if_small(self._checker.vision_model):
            _, flags = self._checker(clip_input=given, images=blackened)
        answers = zip(pictures, flags, self._sound, strict=True)
        return [_judged(*answer) for answer in answers]

    def _fetch_embeddings(self, _module: object, _inputs: object, embeddings: Tensor) -> Tensor:
        embeddings = fetched(embeddings)
        self._sound = embeddings.isfinite().all(dim=1).tolist()
        return embeddings


def _judged(picture: Picture, flag: bool, sound: bool) -> Decoded:
    # Numbers that are not finite compare as below every threshold: the checker would pass them.
    if not sound:
        return Decoded(None, error=UNCHECKED)
    return Decoded(None, flagged=True) if flag else Decoded(picture)
