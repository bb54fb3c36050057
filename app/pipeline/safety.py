"""The safety checker, on the very pixels that would be sent."""

from collections.abc import Iterable

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessor


@torch.inference_mode()
def flag(
    pictures: Iterable[NDArray[np.uint8]],
    checker: StableDiffusionSafetyChecker,
    extractor: CLIPImageProcessor,
) -> list[bool]:
    """Which of ``pictures`` (uint8 ``[h, w, 3]``) the checker stops.

    As in the reference, it sees the rounded 8-bit picture through the checkpoint's
    ``CLIPImageProcessor`` (short side resized with antialias, centre-cropped).
    """
    images = [Image.fromarray(picture) for picture in pictures]
    clip_input = extractor(images, return_tensors="pt").pixel_values
    # The checker blackens what it flags in the pictures it is handed; these are thrown away.
    handed = np.zeros((len(images), 1, 1, 3), dtype=np.float32)
    _, flagged = checker(clip_input=clip_input.to(checker.device), images=handed)
    return [bool(value) for value in flagged]
