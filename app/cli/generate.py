"""The command ``generate``: variations of pictures as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.cli import options
from app.cli.settings import settings_or_exit
from app.errors import BadInput, VariationsError
from app.pictures.encode import OutputFormat

if TYPE_CHECKING:
    from app.cli.inputs import Input
    from app.cli.outcomes import Outcomes


def generate(
    context: typer.Context,
    pictures: options.Pictures = None,
    like: options.Like = None,
    n: options.N = 4,
    out: options.Out = Path("out"),
    seed: options.Seed = None,
    guidance_scale: options.Guidance = None,
    guidance_start: options.GuidanceStart = None,
    guidance_end: options.GuidanceEnd = None,
    strength: options.Strength = None,
    negative: options.Negative = None,
    mix: options.HowToMix = None,
    weight: options.Weights = None,
    steps: options.Steps = None,
    scheduler: options.Solver = None,
    width: options.Width = None,
    height: options.Height = None,
    fit: options.HowToFit = None,
    output_format: options.Format = OutputFormat.PNG,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.AsJson = False,
    sheet: options.SheetFile = None,
) -> None:
    """Write variations of PICTURES to a folder, without a server or with a running one.

    Folders are searched with all that is below them. Without --url the model and device are those
    of the settings (VARIATIONS_MODEL and so on). The exit status is 1 where a picture has no
    variations, and 2 where an option is wrong; the other pictures are varied all the same.

    With --mix all PICTURES make one input, and --weight says how much of each there is in it.
    With --like there are no PICTURES: a variation is made again from its file alone.
    """
    if like:
        _again(context, like, out)
        return
    if not pictures:
        raise typer.BadParameter("Name some, or a file with --like", param_hint="PICTURES")
    from app.cli.inputs import find_inputs, mixed  # noqa: PLC0415
    from app.cli.outcomes import Outcomes  # noqa: PLC0415
    from app.cli.sheet import Sheet  # noqa: PLC0415

    fields = {
        "n": n,
        "seed": seed,
        "guidance_scale": guidance_scale,
        "guidance_start": guidance_start,
        "guidance_end": guidance_end,
        "strength": strength,
        "negative_image": negative,
        "mix": mix,
        "weight": weight or None,
        "num_inference_steps": steps,
        "scheduler": scheduler,
        "width": width,
        "height": height,
        "fit": fit,
        "output_format": output_format,
    }
    if sheet and sheet.suffix.lower() != ".png":
        raise typer.BadParameter(f"A PNG, such as sheet.png, not {sheet}", param_hint="--sheet")
    with _exiting():
        inputs = find_inputs(pictures, out)
        if mix:
            inputs = [mixed(inputs)]
        _check_weights(weight or [], len(inputs[0].paths) if mix else 0)
        out.mkdir(parents=True, exist_ok=True)  # or say so before all the work
        contact = Sheet(sheet, len(inputs)) if sheet else None
        with Outcomes(len(inputs), out, as_json=as_json, sheet=contact) as outcomes:
            if url:
                _by_a_service(url, api_key, inputs, fields, outcomes)
            else:
                _here(inputs, fields, outcomes)
        if outcomes.failures:
            raise typer.Exit(1)


def _check_weights(weights: list[float], pictures: int) -> None:
    """Raise where there is not one for each of the pictures that are mixed."""
    if weights and len(weights) != pictures:
        raise typer.BadParameter(
            f"{len(weights)} are given for {pictures} pictures that are mixed (see --mix)",
            param_hint="--weight",
        )


def _again(context: typer.Context, like: Path, out: Path) -> None:
    """Make one variation again. All else that it takes is in its file, so nothing may be given."""
    from app.cli.like import repeat  # noqa: PLC0415

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source and source.name == "COMMANDLINE" and parameter.name not in ("like", "out"):
            name = (parameter.opts or [parameter.name])[0]
            raise typer.BadParameter(
                f"Everything is taken from the file; leave out {name}", param_hint="--like"
            )
    with _exiting():
        typer.echo(str(repeat(like, out)))


def _here(inputs: list["Input"], fields: dict[str, Any], outcomes: "Outcomes") -> None:
    from app.cli.local import Local  # noqa: PLC0415
    from app.wishes import Wishes  # noqa: PLC0415

    output_format, negative = fields.pop("output_format"), fields.pop("negative_image")
    weight = tuple(fields.pop("weight") or [1.0] * len(inputs[0].paths))
    wishes = Wishes(**fields, weight=weight, negative_image=negative is not None)
    settings = settings_or_exit("VARIATIONS_API_KEY")
    Local(settings, wishes, output_format, outcomes, negative).run(inputs)


def _by_a_service(
    url: str,
    api_key: str | None,
    inputs: list["Input"],
    fields: dict[str, Any],
    outcomes: "Outcomes",
) -> None:
    import asyncio  # noqa: PLC0415

    from app.cli import remote  # noqa: PLC0415
    from app.client import AsyncClient  # noqa: PLC0415

    try:
        client = AsyncClient(url, api_key=api_key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    asyncio.run(remote.run(client, inputs, fields, outcomes))


@contextmanager
def _exiting() -> Iterator[None]:
    """Make of what ends the command a sentence and an exit status: 2 for wrong options."""
    try:
        yield
    except VariationsError as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        is_usage = isinstance(error, BadInput) or getattr(error, "field", None)
        raise typer.Exit(2 if is_usage else 1) from None
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}" if error.filename else error, err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted", err=True)
        raise typer.Exit(130) from None
