"""The command line: serve, generate without a server, size the machine, train the built-in model.

Every command imports what it needs when it runs, so that ``serve`` never loads torch.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import __version__
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
from app.training.cli import app as training

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(training, name="train")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print it and exit.")
    ] = False,
) -> None:
    """Variations of a picture, with Stable Diffusion conditioned on its CLIP embedding."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Instead of VARIATIONS_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of VARIATIONS_PORT.")] = None,
    model: Annotated[str | None, typer.Option(help="Instead of VARIATIONS_MODEL.")] = None,
) -> None:
    """Serve over HTTP. Settings come from the environment (VARIATIONS_…); see the README."""
    try:
        from app.api.server import serve as serve_forever  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "resource":
            raise
        typer.echo("The service runs on Linux and macOS; on Windows use WSL or Docker.", err=True)
        raise typer.Exit(1) from None

    serve_forever(_settings(host=host, port=port, model=model))


@app.command()
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
    settings = _settings()
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


@app.command()
def benchmark(
    as_json: Annotated[bool, typer.Option("--json", help="Figures and settings as JSON.")] = False,
) -> None:
    """Size this machine in about a minute, and print the settings that follow.

    Model, device and the rest are those of the settings (VARIATIONS_MODEL and so on); loading and
    a download come on top.
    """
    import asyncio  # noqa: PLC0415
    import json  # noqa: PLC0415
    from dataclasses import asdict  # noqa: PLC0415

    from app import sizing  # noqa: PLC0415
    from app.api.application import start_message  # noqa: PLC0415

    settings = _settings(log_level="warning")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        typer.echo(f"Others use this machine (load {load:.1f}): figures suffer", err=True)

    def report(stage: str) -> None:
        typer.echo(f"{stage} …", err=True)

    try:
        found = asyncio.run(sizing.size(settings, start_message(settings), report))
    except VariationsError as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else sizing.as_text(found))


def _settings(**given: Any) -> "Settings":
    """The settings, or a line for each that is wrong and exit status 2."""
    from pydantic import ValidationError  # noqa: PLC0415

    from app.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            secret = problem["loc"][:1] == ("api_keys",)
            name = "".join(f"VARIATIONS_{part}: ".upper() for part in problem["loc"][:1])
            given = problem["input"]
            shown = f", not {given[:80]!r}" if isinstance(given, str) and not secret else ""
            typer.echo(name + problem["msg"].removeprefix("Value error, ") + shown, err=True)
        raise typer.Exit(2) from None


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
