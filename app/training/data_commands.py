"""The commands of ``python -m app train`` that look at data and at what a model learned of it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.training.commands import refusing

_Data = Annotated[str, typer.Option(help="Folder of pictures or shards, or shards by URL.")]
_Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Cosine of copies; the descriptor's own.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Descriptor = Annotated[
    str | None, typer.Option(help="SSCD's TorchScript file, path or URL; else one of ours.")
]
_OURS = (
    "Without --descriptor a descriptor of ours is used, which is no SSCD: its figures cannot be "
    "compared with published ones"
)


def check_data(
    data: _Data,
    json_: _Json = False,
    near_copies: Annotated[bool, typer.Option(help="Look for them; decodes all.")] = True,
    descriptor: _Descriptor = None,
    min_size: Annotated[int | None, typer.Option(min=1, help="Shorter side, pixels.")] = None,
    min_aesthetic: Annotated[float | None, typer.Option(help="Score, 1 to 10.")] = None,
    max_watermark: Annotated[float | None, typer.Option(help="Score, 0 to 1.")] = None,
    max_unsafe: Annotated[float | None, typer.Option(help="Score, 0 to 1.")] = None,
) -> None:
    """Tell what a data set holds: counts, sizes, scores, unreadable pictures, near-copies."""
    with refusing():
        from app.training.copies import open_descriptor  # noqa: PLC0415
        from app.training.data_check import check_data as check  # noqa: PLC0415
        from app.training.sieve import Sieve  # noqa: PLC0415

        sieve = Sieve(min_size, min_aesthetic, max_watermark, max_unsafe)
        _tell(check(data, sieve, open_descriptor(descriptor) if near_copies else None), json_)


def deduplicate(
    data: _Data,
    out: Annotated[Path, typer.Option(help="Folder of the shards to write.")],
    threshold: _Threshold = None,
    descriptor: _Descriptor = None,
    json_: _Json = False,
) -> None:
    """Write a data set again without near-copies of earlier pictures."""
    with refusing():
        from app.training.copies import open_descriptor  # noqa: PLC0415
        from app.training.data_check import deduplicate as write  # noqa: PLC0415

        chosen = open_descriptor(descriptor)
        least = chosen.copy if threshold is None else threshold
        _tell(write(data, out, chosen, least), json_)


def memorisation(
    model: Annotated[str, typer.Option(help="Checkpoint: demo, folder or hub id.")],
    data: _Data,
    inputs: Annotated[str | None, typer.Option(help="To vary; else some of --data.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures varied.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    descriptor: _Descriptor = None,
    worst: Annotated[Path | None, typer.Option(help="Sheet of the closest, a PNG.")] = None,
    device: str = "cpu",
    json_: _Json = False,
) -> None:
    """Measure how many of a model's variations are near-copies of its training pictures."""
    with refusing():
        from app.training.cli import progress_bars  # noqa: PLC0415
        from app.training.copies import open_descriptor  # noqa: PLC0415
        from app.training.memorisation import memorisation as measure  # noqa: PLC0415

        chosen = open_descriptor(descriptor)
        with progress_bars() as progress:
            found = measure(model, data, inputs, n, seed, chosen, worst, device, progress)
        if descriptor is None:
            typer.echo(_OURS, err=True)
        _tell(found, json_)


def index(
    data: _Data,
    out: Annotated[Path, typer.Option(help="Folder of the index to write.")],
    threshold: _Threshold = None,
    descriptor: _Descriptor = None,
    json_: _Json = False,
) -> None:
    """Write an index of a model's training pictures, by which the service marks near-copies."""
    with refusing():
        from app.training.copies import open_descriptor  # noqa: PLC0415
        from app.training.data_check import index as write  # noqa: PLC0415

        chosen = open_descriptor(descriptor)
        least = chosen.copy if threshold is None else threshold
        _tell(write(data, out, chosen, least), json_)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {_short(each)}" for key, each in value.items()) or "none"
        typer.echo(f"{name.replace('_', ' ')}: {_short(shown)}")


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(each)}" for key, each in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
