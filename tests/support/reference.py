"""diffusers' own pipeline on the same weights, to which this project has to be equal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.parameters import Condition, Fit, Mix, ModelConfig, Parameters, Scheduler
from app.pictures import Picture
from app.pictures.fit import Preprocessing
from app.pipeline import Pipeline
from tests.support.pictures import quarters

# The classes and options of the table in the README of diffusers' schedulers; what is not named
# comes from the checkpoint's config. DDIM's config there lacks `clip_sample`, whose default is on.
SCHEDULERS: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    Scheduler.PNDM: (diffusers.PNDMScheduler, {}),
    Scheduler.DDIM: (diffusers.DDIMScheduler, {"clip_sample": False}),
    Scheduler.EULER: (diffusers.EulerDiscreteScheduler, {}),
    Scheduler.LMS: (diffusers.LMSDiscreteScheduler, {}),
    Scheduler.HEUN: (diffusers.HeunDiscreteScheduler, {}),
    Scheduler.KDPM2: (diffusers.KDPM2DiscreteScheduler, {}),
    Scheduler.DEIS: (diffusers.DEISMultistepScheduler, {}),
    Scheduler.DPMSOLVER: (diffusers.DPMSolverMultistepScheduler, {}),
    Scheduler.DPMSOLVER_KARRAS: (
        diffusers.DPMSolverMultistepScheduler,
        {"use_karras_sigmas": True},
    ),
    Scheduler.UNIPC: (diffusers.UniPCMultistepScheduler, {}),
}


def assert_diffusers_makes_the_same(folder: Path) -> None:
    """diffusers' own pipeline loads the checkpoint as it is, and makes our picture of a seed."""
    pipeline = Pipeline.load(ModelConfig(str(folder), device="cpu", dtype="float32"))
    parameters = pipeline.model.defaults(num_inference_steps=2, seed=1, guidance_scale=3.0)
    pixels = pipeline.preprocessing(quarters(), parameters.fit)
    [ours] = pipeline.generate(Condition.guided(pixels, 3.0), parameters)
    assert ours.picture is not None
    reference = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(folder)
    reference.set_progress_bar_config(disable=True)
    shown = reference(
        torch.from_numpy(pixels)[None],
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    assert abs(shown * 255 - ours.picture).max() < 2


class Reference:
    """``StableDiffusionImageVariationPipeline`` in float32, handed our fitted picture."""

    def __init__(self, folder: Path, device: str, antialias: bool = False) -> None:
        self.pipeline = diffusers.StableDiffusionImageVariationPipeline.from_pretrained(folder)
        self.pipeline.to(device).set_progress_bar_config(disable=True)
        self._config = self.pipeline.scheduler.config
        self._device = device
        extractor = self.pipeline.feature_extractor
        self._preprocessing = Preprocessing(
            side=self.pipeline.image_encoder.config.image_size,
            antialias=antialias,
            mean=tuple(extractor.image_mean),
            std=tuple(extractor.image_std),
        )

    def pixels(self, picture: Picture, fit: Fit) -> Tensor:
        """The encoder's input ``[1, 3, side, side]``, on the device."""
        return torch.from_numpy(self._preprocessing(picture, fit))[None].to(self._device)

    def latents(self, picture: Picture, parameters: Parameters) -> Tensor:
        """Final latents ``[n, C, h, w]`` on the CPU."""
        kind, options = SCHEDULERS[parameters.scheduler]
        self.pipeline.scheduler = kind.from_config(self._config, **options)
        latents: Tensor = self.pipeline(
            self.pixels(picture, parameters.fit),
            height=parameters.height,
            width=parameters.width,
            **_asked(parameters),
        ).images
        return latents.cpu()

    def started_from(self, picture: Picture, start: Picture, parameters: Parameters) -> Tensor:
        """Final latents of diffusers' image-to-image pipeline, which takes an embedding too."""
        kind, options = SCHEDULERS[parameters.scheduler]
        parts = self.pipeline
        pipeline = diffusers.StableDiffusionImg2ImgPipeline(
            vae=parts.vae,
            text_encoder=None,
            tokenizer=None,
            unet=parts.unet,
            scheduler=kind.from_config(self._config, **options),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            embedding = self._embedding(picture, parameters.fit)[:, None]
        latents: Tensor = pipeline(
            image=Image.fromarray(start),
            prompt_embeds=embedding,
            negative_prompt_embeds=torch.zeros_like(embedding),
            strength=parameters.strength,
            **_asked(parameters),
        ).images
        return latents.cpu()

    @torch.no_grad()
    def composed(
        self,
        pictures: Sequence[Picture],
        parameters: Parameters,
        negative: Picture | None = None,
        start: Picture | None = None,
    ) -> Tensor:
        """Final latents of several pictures with diffusers' parts, one UNet input after the other.

        For what no pipeline of diffusers does with this model. ``start`` is of the output's size.
        """
        wanted = parameters
        embeddings = [self._embedding(picture, wanted.fit) for picture in pictures]
        against = torch.zeros_like(embeddings[0])
        if negative is not None:
            against = self._embedding(negative, wanted.fit)
        looks = list(zip(wanted.weight, embeddings, strict=True))
        if wanted.mix is Mix.EMBEDDING:
            looks = [(1.0, _sum(looks))]
        seeds = range(wanted.seed, wanted.seed + wanted.n)
        return torch.cat(
            [self._denoised(wanted, looks, against, start, seed) for seed in seeds]
        ).cpu()

    def _embedding(self, picture: Picture, fit: Fit) -> Tensor:
        embeds: Tensor = self.pipeline.image_encoder(self.pixels(picture, fit)).image_embeds
        return embeds

    def _denoised(
        self,
        wanted: Parameters,
        looks: Sequence[tuple[float, Tensor]],
        against: Tensor,
        start: Picture | None,
        seed: int,
    ) -> Tensor:
        kind, options = SCHEDULERS[wanted.scheduler]
        scheduler = kind.from_config(self._config, **options)
        scheduler.set_timesteps(wanted.num_inference_steps)
        unet, timesteps = self.pipeline.unet, scheduler.timesteps
        generator = torch.Generator().manual_seed(seed)
        sample: Tensor
        if start is None:
            sample = self._drawn(wanted, generator) * scheduler.init_noise_sigma
        else:
            assert wanted.strength is not None
            kept = min(int(wanted.num_inference_steps * wanted.strength), len(timesteps))
            begin = (wanted.num_inference_steps - kept) * scheduler.order
            timesteps = timesteps[begin:]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(begin)
            clean = self._clean(start, generator)
            sample = scheduler.add_noise(clean, self._drawn(wanted, generator), timesteps[:1])
        first, end = (round(part * len(timesteps)) for part in _guided_part(wanted))
        for i, timestep in enumerate(timesteps):
            scaled = scheduler.scale_model_input(sample, timestep)

            def noise(embedding: Tensor, scaled: Tensor = scaled, at: Tensor = timestep) -> Tensor:
                predicted: Tensor = unet(
                    scaled, at, encoder_hidden_states=embedding[:, None]
                ).sample
                return predicted

            if first <= i < end:
                base = noise(against)
                steered = _sum([(weight, noise(each) - base) for weight, each in looks])
                output = base + wanted.guidance_scale * steered
            else:
                output = _sum([(weight, noise(each)) for weight, each in looks])
            sample = scheduler.step(output, timestep, sample).prev_sample
        return sample

    def _drawn(self, wanted: Parameters, generator: torch.Generator) -> Tensor:
        scale, channels = self.pipeline.vae_scale_factor, self.pipeline.unet.config.in_channels
        shape = 1, channels, wanted.height // scale, wanted.width // scale
        return torch.randn(shape, generator=generator).to(self._device)

    def _clean(self, picture: Picture, generator: torch.Generator) -> Tensor:
        pixels = self.pipeline.image_processor.preprocess(Image.fromarray(picture))
        vae = self.pipeline.vae
        latents: Tensor = vae.encode(pixels.to(self._device)).latent_dist.sample(generator)
        scaled: Tensor = latents * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> tuple[Picture, list[bool]]:
        """The end of the reference, after its loop: ``uint8 [n, h, w, 3]`` and who is flagged."""
        pipeline = self.pipeline
        scaled = latents.to(self._device) / pipeline.vae.config.scaling_factor
        image = pipeline.vae.decode(scaled, return_dict=False)[0]
        image, flags = pipeline.run_safety_checker(image, self._device, torch.float32)
        pictures = pipeline.image_processor.postprocess(
            image, output_type="pil", do_denormalize=[not flag for flag in flags]
        )
        return np.stack([np.asarray(picture) for picture in pictures]), flags


def _guided_part(wanted: Parameters) -> tuple[float, float]:
    if wanted.guidance_scale <= 1:
        return 0.0, 0.0
    return wanted.guidance_start, wanted.guidance_end


def _sum(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([weight * each for weight, each in weighted]).sum(dim=0)


def _asked(parameters: Parameters) -> dict[str, Any]:
    """What every pipeline of diffusers' takes of a request, its seeds as generators on the CPU."""
    return {
        "num_inference_steps": parameters.num_inference_steps,
        "guidance_scale": parameters.guidance_scale,
        "num_images_per_prompt": parameters.n,
        "generator": [
            torch.Generator().manual_seed(parameters.seed + i) for i in range(parameters.n)
        ],
        "output_type": "latent",
    }
