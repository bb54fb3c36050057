"""The commands of ``python -m app train`` for real checkpoints and real data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import VariationsError
from app.parameters import Fit
from app.training.errors import CannotStart
from app.training.recipe import Optimizer, Precision, Preset

if TYPE_CHECKING:
    from app.training.finetune import Report

_EXTRA = ("faiss", "webdataset")


@contextmanager
def refusing() -> Iterator[None]:
    """Exit status 2 with a sentence where the start, the data or the settings are wrong."""

    try:
        yield
    except CannotStart as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        typer.echo(
            f"{error.name} is not installed: training needs the extra `train` "
            "(pip install -e '.[train]' in a checkout)",
            err=True,
        )
        raise typer.Exit(2) from None
    except VariationsError as error:
        typer.echo(f"{error.title}: {error.message}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _bar(steps: int, cpu: bool) -> Iterator["Report"]:
    """A bar on the main process: the loss, the rate and the time left."""
    from accelerate import PartialState  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    disable = not PartialState(cpu=cpu).is_main_process
    with Progress(*columns, console=Console(stderr=True), disable=disable) as bars:
        task = bars.add_task("steps", total=steps, loss="")

        def report(step: int, loss: float) -> None:
            speed = bars.tasks[task].speed
            rate = f", {speed:.2f} steps/s" if speed else ""
            bars.update(task, completed=step, loss=f"loss {loss:.4f}{rate}")

        yield report


def convert(
    model: Annotated[Path, typer.Option(help="Text-to-image Stable Diffusion 1.x, a folder.")],
    encoder: Annotated[Path, typer.Option(help="CLIP vision encoder with projection, a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
) -> None:
    """Make an image-variation checkpoint of a text-to-image one; it has yet to be trained."""
    from app.training.card import licence_of, write_card  # noqa: PLC0415
    from app.training.checkpoint import write_checkpoint  # noqa: PLC0415
    from app.training.start import load_start  # noqa: PLC0415

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


def variations(
    model: Annotated[str, typer.Option(help="Checkpoint to start from: folder or hub id.")],
    data: Annotated[str, typer.Option(help="Folder of pictures or shards, or shards by URL.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint, and of the run.")],
    steps: Annotated[int, typer.Option(min=1)] = 87_000,
    encoder: Annotated[str | None, typer.Option(help="For a text-to-image start.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.")] = None,
    preset: Annotated[Preset, typer.Option(help="Learning rates; v2 has two stages.")] = (
        Preset.CARD
    ),
    learning_rate: Annotated[float | None, typer.Option(help="Not the preset's.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Not the preset's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of one device.")] = 6,
    accumulation: Annotated[int, typer.Option(min=1, help="Batches of one step.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    ema_decay: Annotated[float, typer.Option(min=0, max=1, help="0: none.")] = 0.9999,
    zeroed: Annotated[float, typer.Option(min=0, max=1, help="Share without condition.")] = 0.1,
    min_snr: Annotated[float | None, typer.Option(min=0.1, help="Gamma; 5 is usual.")] = None,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.ADAMW,
    mixed_precision: Annotated[Precision, typer.Option()] = Precision.NO,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory.")] = False,
    min_size: Annotated[int | None, typer.Option(min=1, help="Shorter side, pixels.")] = None,
    min_aesthetic: Annotated[float | None, typer.Option(help="Score, 1 to 10.")] = None,
    max_watermark: Annotated[float | None, typer.Option(help="Score, 0 to 1.")] = None,
    max_unsafe: Annotated[float | None, typer.Option(help="Score, 0 to 1.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Not the checkpoint's.")] = None,
    fit: Annotated[Fit | None, typer.Option(help="Not the checkpoint's.")] = None,
    random_crop: Annotated[bool, typer.Option(help="Or the middle.")] = True,
    flip: Annotated[bool, typer.Option(help="Half of them mirrored.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps.")] = 500,
    validation: Annotated[str | None, typer.Option(help="Pictures to look at.")] = None,
    look_every: Annotated[int, typer.Option(min=0, help="Steps; 0: never.")] = 500,
    tracker: Annotated[str, typer.Option(help="Of Accelerate's; none: none.")] = "tensorboard",
    cpu: Annotated[bool, typer.Option(help="Though there is a GPU.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on where it was stopped.")] = False,
    push_to: Annotated[str | None, typer.Option(help="Hub repository.")] = None,
) -> None:
    """Make an image-variation model of one's own pictures; the defaults are the card's recipe.

    Several devices or machines: `accelerate launch -m app train variations …`. Ctrl-C saves; the
    same command with --resume goes on.
    """
    options = locals()
    from accelerate import PartialState  # noqa: PLC0415

    with refusing():
        from app.training.job import plan, run  # noqa: PLC0415

        job, settings = plan(options)
        with _bar(steps, job.cpu) as report:
            finished = run(job, settings, report)
    if not finished:
        typer.echo(f"stopped and saved: the same command with --resume goes on in {out}", err=True)
        raise typer.Exit(130)
    if PartialState().is_main_process:
        typer.echo(f"wrote {out}")
