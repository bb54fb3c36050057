"""``python -m app train``: models of one's own, and the built-in one made again and measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.training import commands, data_commands

if TYPE_CHECKING:
    from app.training.loop import Progress

app = typer.Typer(help="Train models of one's own, or the built-in one.", no_args_is_help=True)
app.command()(commands.variations)
app.command()(commands.convert)
app.command("check-data")(data_commands.check_data)
app.command()(data_commands.deduplicate)
app.command()(data_commands.memorisation)
app.command()(data_commands.index)

_Work = Annotated[Path, typer.Option(help="Keeps drawings and states, so that a run resumes.")]
_Seed = Annotated[int, typer.Option(min=0)]
_Scale = Annotated[float, typer.Option(min=0.0, help="Times the steps of every part.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = Path("out/demo"),
    work_dir: _Work = Path("training-runs/demo"),
    seed: _Seed = 0,
    scale: _Scale = 1.0,
) -> None:
    """Draw the pictures, train every part, write the checkpoint. Hours; stop and resume freely."""
    from app.training.demo import Plan, train_demo  # noqa: PLC0415

    with progress_bars() as progress:
        train_demo(Plan().scaled(scale), output, work_dir, seed, progress)
    typer.echo(f"wrote {output}")


@app.command()
def judge(
    output: Annotated[Path, typer.Option()] = Path("out/judge.safetensors"),
    work_dir: _Work = Path("training-runs/demo"),
    seed: _Seed = 0,
    scale: _Scale = 1.0,
) -> None:
    """Train the classifier that `evaluate` measures with, on the same drawings."""
    from app.training.demo import Plan, train_demo_judge  # noqa: PLC0415

    output.parent.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        train_demo_judge(Plan().scaled(scale), output, work_dir, seed, progress)
    typer.echo(f"wrote {output}")


@app.command()
def evaluate(
    docs: Annotated[Path, typer.Option(help="Where figures and grids go.")] = Path("docs"),
    guidance_scale: Annotated[float | None, typer.Option("--guidance", min=0)] = None,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Measure the built-in model on held-out drawings: demo-model.json, and grids of pictures."""
    from app.training.evaluate import evaluate as measure  # noqa: PLC0415

    with progress_bars() as progress:
        figures = measure(docs, guidance_scale, steps, progress)
    for name, value in figures.items():
        typer.echo(f"{name}: {value:.3f}")


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """One bar for each part that reports; the running loss beside it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415
    from rich.progress import TaskID  # noqa: PLC0415

    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Bars(*Bars.get_default_columns(), "{task.fields[loss]}", console=console) as bars:

        def progress(name: str, done: int, total: int, loss: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, loss="")
            shown = f"{loss:.4f}" if loss else ""
            bars.update(tasks[name], completed=done, total=total, loss=shown)

        yield progress
