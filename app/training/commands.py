"""The commands of ``python -m app train`` for real checkpoints and real data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app.errors import VariationsError


@contextmanager
def refusing() -> Iterator[None]:
    """Exit status 2 with a sentence where the start, the data or the settings are wrong."""
    from app.training.start import CannotStart  # noqa: PLC0415

    try:
        yield
    except CannotStart as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(2) from None
    except VariationsError as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(1) from None


def convert(
    model: Annotated[Path, typer.Option(help="Text-to-image Stable Diffusion 1.x, a folder.")],
    encoder: Annotated[Path, typer.Option(help="CLIP vision encoder with projection, a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
) -> None:
    """Make an image-variation checkpoint of a text-to-image one; it has yet to be trained."""
    from app.training.card import licence_of, write_card  # noqa: PLC0415
    from app.training.checkpoint import write_checkpoint  # noqa: PLC0415
    from app.training.start import CannotStart, load_start  # noqa: PLC0415

    with refusing():
        if out.exists() and any(out.iterdir()):
            raise CannotStart(f"{out} is not empty: name a new folder (--out)")
        start = load_start(model, encoder)
        about = (
            "The parts of a text-to-image model with a CLIP vision encoder in place of its text "
            "encoder. **It is not trained yet**: its UNet knows nothing of picture embeddings."
        )
        facts = {"started from": start.name, "vision encoder": encoder.resolve().name, "steps": 0}
        card = write_card(out.name, licence_of(model), about, facts)
        write_checkpoint(out, start.parts, start.facts, card)
        typer.echo(f"wrote {out}")
