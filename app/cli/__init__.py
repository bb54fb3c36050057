"""The command line: serve, generate without a server, size the machine, train models.

Every command imports what it needs when it runs, so that ``serve`` never loads torch.
"""

from typing import Annotated

import typer

from app import __version__
from app.cli.certificate import certificate
from app.cli.commands import benchmark, serve
from app.cli.generate import generate
from app.training.cli import app as training

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(serve)
app.command()(generate)
app.command()(benchmark)
app.command()(certificate)
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
