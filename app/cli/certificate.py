"""The command ``certificate``: what it takes to try signed files (C2PA)."""

from pathlib import Path
from typing import Annotated

import typer

FILES = "certificate.pem", "key.pem", "authority.pem"


def certificate(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path("c2pa"),
    name: Annotated[
        str, typer.Option(help="Whom readers show as the signer.")
    ] = "variations (trial)",
) -> None:
    """Make a certificate and key for trying signed files, valid for a year.

    Nobody vouches for it: readers show such files as intact, and their signer as not trusted. Only
    a reader that is told of authority.pem trusts it.
    """
    try:
        from app.pictures.certificates import make_certificates  # noqa: PLC0415
    except ModuleNotFoundError:
        typer.echo("Certificates need the extra c2pa; the README says how to install it", err=True)
        raise typer.Exit(1) from None

    paths = [out / file for file in FILES]
    if present := next((path for path in paths if path.exists()), None):
        typer.echo(f"{present} is there already; choose another folder with --out", err=True)
        raise typer.Exit(1)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, pem in zip(paths, make_certificates(name), strict=True):
            path.touch(mode=0o600 if path.name == "key.pem" else 0o644)
            path.write_bytes(pem)
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"VARIATIONS_C2PA_CERTIFICATE={paths[0].resolve()}")
    typer.echo(f"VARIATIONS_C2PA_KEY={paths[1].resolve()}")
