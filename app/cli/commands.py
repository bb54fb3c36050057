"""The commands ``serve`` and ``benchmark``."""

import os
from typing import Annotated

import typer

from app.cli.settings import settings_or_exit
from app.errors import VariationsError


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

    serve_forever(settings_or_exit(host=host, port=port, model=model))


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

    settings = settings_or_exit(log_level="warning")
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
