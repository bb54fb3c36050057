"""The command ``generate``: variations of pictures as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.settings import settings_or_exit
from app.errors import VariationsError
from app.parameters import (
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    MAX_VARIATIONS,
    Condition,
    Fit,
    Scheduler,
    Wishes,
)

if TYPE_CHECKING:
    from app.settings import Settings


def generate(
    photo: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The picture.")],
    n: Annotated[int, typer.Option("-n", min=1, max=MAX_VARIATIONS, help="How many.")] = 4,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path("out"),
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Of the first; then +1. Random.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance", min=0, max=MAX_GUIDANCE_SCALE)
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=MAX_STEPS)] = None,
    scheduler: Annotated[Scheduler | None, typer.Option()] = None,
    fit: Annotated[Fit | None, typer.Option(help="How a picture becomes square.")] = None,
) -> None:
    """Write variations of PHOTO to a folder, without a server.

    The model and device are those of the settings (VARIATIONS_MODEL and so on).
    """
    settings = settings_or_exit()
    wishes = Wishes(
        n=n,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        scheduler=scheduler,
        seed=seed,
        fit=fit,
    )
    try:
        _generate(settings, photo, wishes, out)
    except VariationsError as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}" if error.filename else error, err=True)
        raise typer.Exit(1) from None


def _generate(settings: "Settings", photo: Path, wishes: Wishes, out: Path) -> None:
    from PIL import Image  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from app.pictures.decode import decode  # noqa: PLC0415
    from app.pipeline import Pipeline  # noqa: PLC0415

    with Progress(transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def loading(stage: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            bar.update(task, description=stage, completed=fraction or 0, total=total)

        pipeline = Pipeline.load(settings.to_model_config(), loading)
        parameters = wishes.resolve(pipeline.model)
        picture = decode(photo.read_bytes(), max_pixels=settings.max_pixels)
        pixels = pipeline.preprocessing(picture, parameters.fit)
        out.mkdir(parents=True, exist_ok=True)
        bar.update(task, description=f"{parameters.n} variations of {photo.name}")
        pictures = pipeline.generate(
            Condition.guided(pixels, parameters.guidance_scale),
            parameters,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for index, decoded in enumerate(pictures):
        seed = parameters.seed_of(index)
        if decoded.picture is None:
            typer.echo(f"seed {seed}: {decoded.error or 'stopped by the safety checker'}", err=True)
            continue
        path = out / f"{photo.stem}-{seed}.png"
        Image.fromarray(decoded.picture).save(path)
        typer.echo(str(path))
    if all(decoded.picture is None for decoded in pictures):
        raise typer.Exit(1)
