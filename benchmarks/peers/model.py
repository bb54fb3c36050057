"""The model as every peer has it: diffusers' pipeline, called as its documentation shows."""

import base64
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from pydantic import Base64Bytes, BaseModel
from torch import Tensor

from app.parameters import Fit
from app.pictures.decode import decode
from app.pictures.fit import Preprocessing

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "pndm": (diffusers.PNDMScheduler, {}),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {}),
}

MOST_PIXELS = 50_000_000

Key = tuple[int, float, str]
"""Steps, guidance and scheduler: what a call of the pipeline has once for all its pictures."""


class Request(BaseModel):
    """What a client posts; ``image`` is a file in base64, the rest as in the service's form."""

    image: Base64Bytes
    n: int = 1
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    scheduler: str = "ddim"
    seed: int = 0

    @property
    def key(self) -> Key:
        """Requests that have it in common can share a call."""
        return self.num_inference_steps, self.guidance_scale, self.scheduler


class Variation(BaseModel):
    """A picture as PNG in base64; none where the safety checker stopped it."""

    index: int
    seed: int
    b64_json: str | None
    flagged: bool


class Answer(BaseModel):
    """A request's pictures, in their order."""

    variations: list[Variation]


class Model:
    """diffusers' pipeline on the CPU in float32. Not to be called from two threads at once."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        # As diffusers' guide to faster inference has it.
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.pipeline.vae.to(memory_format=torch.channels_last)
        self._scheduler_config = self.pipeline.scheduler.config
        self._fit, self.preprocessing = _preprocessing(folder, self.pipeline)

    def pixels(self, request: Request) -> Tensor:
        """The encoder's input, ``float32 [1, 3, side, side]``, made as the service makes it."""
        picture = decode(request.image, max_pixels=MOST_PIXELS)
        return torch.from_numpy(self.preprocessing(picture, self._fit))[None]

    def scheduler(self, request: Request) -> Any:
        """A new scheduler object for it."""
        kind, options = SCHEDULERS[request.scheduler]
        return kind.from_config(self._scheduler_config, **options)

    def __call__(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers of any requests: those that are alike share a call of the pipeline."""
        by_key: dict[Key, list[int]] = {}
        for place, request in enumerate(requests):
            by_key.setdefault(request.key, []).append(place)
        answers: dict[int, Answer] = {}
        for places in by_key.values():
            alike = [requests[place] for place in places]
            pixels = [self.pixels(request) for request in alike]
            answers.update(zip(places, self.call(alike, pixels), strict=True))
        return [answers[place] for place in range(len(requests))]

    def call(self, requests: Sequence[Request], pixels: Sequence[Tensor]) -> list[Answer]:
        """One call of the pipeline for requests of one key, with the :meth:`pixels` of each."""
        each = math.gcd(*(request.n for request in requests))
        repeated = [one for request, one in zip(requests, pixels, strict=True)
                    for _ in range(request.n // each)]  # fmt: skip
        self.pipeline.scheduler = self.scheduler(requests[0])
        made = self.pipeline(
            torch.cat(repeated),
            num_inference_steps=requests[0].num_inference_steps,
            guidance_scale=requests[0].guidance_scale,
            num_images_per_prompt=each,
            generator=[generator for request in requests for generator in generators(request)],
        )
        pictures = iter(zip(made.images, made.nsfw_content_detected, strict=True))
        return [answer(request, [next(pictures) for _ in range(request.n)]) for request in requests]


def generators(request: Request) -> list[torch.Generator]:
    """One for each picture: its seed is the request's, plus its index."""
    return [torch.Generator().manual_seed(request.seed + index) for index in range(request.n)]


def answer(request: Request, pictures: Sequence[tuple[Image.Image, bool]]) -> Answer:
    """Pictures and whether each is flagged, as they are posted back."""
    return Answer(
        variations=[
            Variation(
                index=index,
                seed=request.seed + index,
                b64_json=None if flagged else _png(picture),
                flagged=flagged,
            )
            for index, (picture, flagged) in enumerate(pictures)
        ]
    )


def load() -> Model:
    """The model of ``PEER_MODEL``."""
    return Model(Path(os.environ["PEER_MODEL"]))


def batch(default: int) -> int:
    """The most requests or pictures of a batch: ``PEER_BATCH``, or this."""
    return int(os.environ.get("PEER_BATCH", default))


def port() -> int:
    """The port to listen on: ``PEER_PORT``."""
    return int(os.environ["PEER_PORT"])


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _preprocessing(folder: Path, pipeline: Any) -> tuple[Fit, Preprocessing]:
    """How pictures become the encoder's input: as the checkpoint says, else as the original's."""
    facts = folder / "variations.json"
    said = json.loads(facts.read_text()) if facts.exists() else {}
    extractor = pipeline.feature_extractor
    return Fit(said.get("fit", Fit.SQUASH)), Preprocessing(
        side=pipeline.image_encoder.config.image_size,
        antialias=said.get("antialias", False),
        mean=tuple(extractor.image_mean),
        std=tuple(extractor.image_std),
    )
