"""``train variations`` from its options to the finished checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import HfApi

from app.parameters import Fit
from app.pipeline.known import Known
from app.training.card import licence_of, write_card
from app.training.checkpoint import write_checkpoint
from app.training.errors import CannotStart
from app.training.examples import View
from app.training.fetch import fetch_encoder, fetch_model
from app.training.finetune import Data, FineTuning, Report
from app.training.looking import Looking, validation_pictures
from app.training.recipe import Settings, stages_of
from app.training.sieve import Sieve
from app.training.sources import open_source
from app.training.start import Start, load_start


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained, on what, and where it goes; the options of the command line.

    ``resolution`` and ``fit`` are the checkpoint's own where they are None. ``look_every`` steps
    the first pictures of ``validation`` are varied; 0 is never.
    """

    model: str
    data: str
    out: Path
    encoder: str | None = None
    revision: str | None = None
    sieve: Sieve = field(default_factory=Sieve)
    resolution: int | None = None
    fit: Fit | None = None
    random_crop: bool = True
    flip: bool = False
    workers: int = 0
    save_every: int = 500
    validation: str | None = None
    look_every: int = 500
    tracker: str | None = "tensorboard"
    cpu: bool = False
    resume: bool = False
    push_to: str | None = None


def run(job: Job, settings: Settings, report: Report) -> bool:
    """Train, and write the checkpoint; False where a signal stopped the training before its end.

    Raises :class:`CannotStart` where the start, the data or the settings are wrong.
    """
    if job.out.exists() and not job.out.is_dir():
        raise CannotStart(f"{job.out} is a file; name a folder (--out)")
    if job.out.exists() and any(job.out.iterdir()) and not (job.out / "training").is_dir():
        raise CannotStart(f"{job.out} has other files in it: name a new folder (--out)")
    source = open_source(job.data)
    with PartialState(cpu=job.cpu).local_main_process_first():
        folder = fetch_model(job.model, job.revision)
        encoder = fetch_encoder(job.encoder)
    start = load_start(folder, encoder)
    view = _view(start, job)
    validation = validation_pictures(job.validation, 8) if job.validation else []
    training = FineTuning(
        start.parts,
        Data(source, job.sieve, view, job.workers),
        settings,
        job.out,
        cpu=job.cpu,
        tracker=job.tracker,
    )
    training.begin(_description(job, start, view), job.resume)
    look = None
    if validation:
        look = Looking(
            validation, training.frozen, view, start.facts, job.out / "training" / "looks"
        )
    finished = training.train(
        report, save_every=job.save_every, look=look, look_every=job.look_every
    )
    if finished:
        _write(training, start, job, view, licence_of(folder))
    return finished


def _view(start: Start, job: Job) -> View:
    """The checkpoint's own size and preprocessing; raises where the UNet cannot halve the size."""
    own = start.parts.unet.config.sample_size * start.parts.vae_scale
    resolution = own if job.resolution is None else job.resolution
    unit = start.parts.size_unit
    if resolution < unit or resolution % unit:
        near = max(unit, round(resolution / unit) * unit)
        raise CannotStart(
            f"--resolution is a multiple of {unit} pixels for this model: not {resolution}, but "
            f"{near}, say"
        )
    preprocessing = start.parts.preprocessing(antialias=start.facts.antialias)
    return View(resolution, preprocessing, job.fit or start.facts.fit, job.random_crop, job.flip)


def _description(job: Job, start: Start, view: View) -> Mapping[str, object]:
    """What a resumed run must share with the one that it goes on with."""
    return {
        "model": start.name,
        "data": job.data,
        "sieve": asdict(job.sieve),
        "resolution": view.resolution,
        "fit": view.fit,
        "random_crop": view.random_crop,
        "flip": view.flip,
    }


def _write(training: FineTuning, start: Start, job: Job, view: View, licence: str) -> None:
    """Write the checkpoint by the main process, and push it where that is asked for."""
    main = training.accelerator.is_main_process
    processes = training.accelerator.num_processes
    parts = training.result()
    if not main:
        return
    settings = training.settings
    facts = {
        "started from": start.name,
        "data": job.data,
        "left out of the data": _in_words(job.sieve),
        "steps": settings.steps,
        "pictures a step": settings.batch_size * settings.accumulation * processes,
        "learning rate": ", then ".join(
            f"{stage.learning_rate:g} after a warm-up of {stage.warmup} steps"
            + (" (cross-attention only)" if stage.only_cross_attention else "")
            for stage in settings.stages
        ),
        "optimizer": settings.optimizer,
        "averaged weights": settings.ema_decay or "none",
        "conditions zeroed": f"{settings.zeroed:.0%}",
        "min-SNR": settings.min_snr or "none",
        "precision": settings.mixed_precision,
        "size": f"{view.resolution} × {view.resolution}",
        "fit of the encoder's input": f"{view.fit}, antialias {view.preprocessing.antialias}",
        "seed": settings.seed,
    }
    about = (
        "Varies a picture: the picture's CLIP embedding, not a text, conditions the diffusion "
        f"model. Fine-tuned from {start.name}. `variations.json` says how pictures are made "
        "smaller for the encoder; to repeat that is part of using this model."
    )
    known = Known(**{**asdict(start.facts), "revision": None, "fit": view.fit})
    write_checkpoint(job.out, parts, known, write_card(job.out.name, licence, about, facts))
    if job.push_to:
        api = HfApi()
        api.create_repo(job.push_to, exist_ok=True)
        api.upload_folder(
            repo_id=job.push_to, folder_path=str(job.out), ignore_patterns=["training/**"]
        )


def _in_words(sieve: Sieve) -> str:
    bounds = {name: value for name, value in asdict(sieve).items() if value is not None}
    return ", ".join(f"{name} {value:g}" for name, value in bounds.items()) or "nothing"


def plan(options: Mapping[str, Any]) -> tuple[Job, Settings]:
    """The job and the settings of the command's options, by their names.

    Raises :class:`CannotStart` where one of them cannot be.
    """
    rate = options["learning_rate"]
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise CannotStart(f"--learning-rate is a number above 0, such as 1e-4: not {rate}")
    stages = stages_of(options["preset"], rate, options["warmup"])
    given = {**options, "stages": stages, "ema_decay": options["ema_decay"] or None}
    given["sieve"] = Sieve(**_for(Sieve, given))
    # Accelerate takes several processes for one each, where there is no GPU and it is not told so.
    given["cpu"] = options["cpu"] or not torch.accelerator.is_available()
    given["tracker"] = None if given["tracker"] == "none" else given["tracker"]
    return Job(**_for(Job, given)), Settings(**_for(Settings, given))


def _for(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that are fields of ``kind``."""
    return {name: options[name] for name in (each.name for each in fields(kind)) if name in options}
