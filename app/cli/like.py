"""``generate --like``: a picture again, from what its file says of its making."""

from pathlib import Path

import typer
from PIL import Image

from app.cli import fixed
from app.cli.inputs import write_whole
from app.cli.settings import settings_or_exit
from app.errors import GenerationFailed, NotRepeatable
from app.parameters import ModelConfig, ModelInfo
from app.pictures.encode import OutputFormat, encode
from app.pictures.provenance import Origin, read_origin


def repeat(file: Path, out: Path) -> Path:
    """Make the picture in ``file`` again, as a file of the same name and format in ``out``.

    Raises :class:`NotRepeatable` where that cannot be, or not with the model of the settings.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from app.pipeline import Pipeline  # noqa: PLC0415

    settings = settings_or_exit()
    origin = read_origin(file)
    condition = origin.condition()
    path = out / file.name
    if path.exists() and path.samefile(file):
        raise NotRepeatable(f"it would be written over {file}; choose another folder with --out")
    _check_model(origin, settings.to_model_config())
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{file.name} again", total=None)
        pipeline = Pipeline.load(settings.to_model_config())
        _check_size(origin, pipeline.model)
        if origin.bucket:
            fixed.prepare(pipeline, origin.bucket)
        sample = pipeline.start(pipeline.condition(condition), origin.parameters, 0)
        bar.update(task, total=sample.steps)
        while sample.steps_left:
            fixed.step(pipeline, [sample], origin.bucket or 0)
            bar.advance(task)
        [decoded] = pipeline.decode([sample])
    if decoded.picture is None:
        raise GenerationFailed(decoded.error or "the safety checker stopped the picture")
    _tell_differences(origin, pipeline.model)
    with Image.open(file) as image:
        output_format = OutputFormat(str(image.format).lower())
    again = Origin.of(pipeline.model, origin.parameters, 0, origin.embeddings, origin.bucket)
    told = again.told(settings.provenance)
    write_whole(path, encode(decoded.picture, output_format, told, settings.signer()))
    return path


def _check_model(origin: Origin, config: ModelConfig) -> None:
    """Before it is loaded, which may take minutes."""
    from app.pipeline.hub import identity  # noqa: PLC0415

    name, revision = identity(config)
    if (name, revision) != (origin.model, origin.revision):
        wanted = f"VARIATIONS_MODEL={origin.model}"
        if origin.revision:
            wanted += f" and VARIATIONS_REVISION={origin.revision}"
        raise NotRepeatable(
            f"it was made by {_called(origin.model, origin.revision)}, and this is "
            f"{_called(name, revision)}: set {wanted}, or the path of the folder of that name"
        )


def _called(name: str, revision: str | None) -> str:
    return f"{name} at {revision}" if revision else name


def _check_size(origin: Origin, model: ModelInfo) -> None:
    width, height = size = origin.parameters.size
    if size not in model.sizes:
        raise NotRepeatable(
            f"it has {width}x{height} pixels, which is no size that the settings offer: set "
            f"VARIATIONS_SIZES={width}x{height}"
        )


def _tell_differences(origin: Origin, model: ModelInfo) -> None:
    """Say why the picture may differ in its last bits."""
    then, now = (origin.device, origin.dtype), (model.device, model.dtype)
    if then != now:
        typer.echo(f"Made on {' '.join(then)}, and here on {' '.join(now)}: not the same", err=True)
    elif origin.bucket is None:
        typer.echo("Made without a fixed bucket: the same but for rounding", err=True)
