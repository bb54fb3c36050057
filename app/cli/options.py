"""The options of ``generate``, each with its range and its help."""

from pathlib import Path
from typing import Annotated

import typer

from app.parameters import (
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    MAX_VARIATIONS,
    Fit,
    Mix,
    Scheduler,
)
from app.pictures.encode import OutputFormat

Pictures = Annotated[
    list[Path] | None,
    typer.Argument(exists=True, show_default=False, help="Files, or folders with files in them."),
]
Like = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Instead: make this variation again."),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.", file_okay=False)]

N = Annotated[int, typer.Option("-n", min=1, max=MAX_VARIATIONS, help="How many of each picture.")]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MAX_SEED,
        help="Of the first variation; the next has one more. Random if left out.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        max=MAX_GUIDANCE_SCALE,
        help="How closely to follow the picture; at most 1: no guidance.",
    ),
]
GuidanceStart = Annotated[
    float | None, typer.Option(min=0, max=1, help="The part of the steps where it begins.")
]
GuidanceEnd = Annotated[
    float | None, typer.Option(min=0, max=1, help="The part of the steps where it ends.")
]
Steps = Annotated[
    int | None, typer.Option(min=1, max=MAX_STEPS, help="More steps, finer pictures.")
]
Strength = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Begin from the picture itself: less keeps more of it."),
]
Negative = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="A picture to be unlike.")
]
HowToMix = Annotated[
    Mix | None, typer.Option("--mix", help="Vary 2 to 4 pictures together, and how to mix them.")
]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", help="With --mix, once for each picture.")
]
Solver = Annotated[Scheduler | None, typer.Option("--scheduler", help="The solver.")]
Width = Annotated[int | None, typer.Option(min=1, help="With --height, a size that is offered.")]
Height = Annotated[int | None, typer.Option(min=1, help="With --width, a size that is offered.")]
HowToFit = Annotated[Fit | None, typer.Option("--fit", help="How a picture becomes square.")]
Format = Annotated[OutputFormat, typer.Option("--format", help="Of the files written.")]

Url = Annotated[
    str | None,
    typer.Option(help="Address of a running service; without, the model is loaded here."),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="VARIATIONS_API_KEY", help="One of the service's API keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each variation.")]
SheetFile = Annotated[
    Path | None, typer.Option("--sheet", dir_okay=False, help="Contact sheet to write, a PNG.")
]
