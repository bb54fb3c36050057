"""All that is to be known of a GPU, in one command of at most ten minutes: ``python -m
benchmarks.gpu``.

Stable Diffusion 1's architecture with random weights, so that nothing is downloaded. Equality comes
first; then steps of 1 to 16 samples as served, without CUDA graphs and by diffusers; a whole
picture; and the same steps compiled. After every stage the figures so far are written. A stage
that would begin too late is left out, and said to be. ``--device cpu --small`` is a dry run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from app.parameters import Condition, ModelConfig, Scheduler
from app.pipeline import Pipeline
from app.pipeline.selfcheck import largest_deviation
from benchmarks import engine
from benchmarks.contenders import in_turns
from benchmarks.report import RESULTS, PublishAnyway, Run, recording, write

SMALL, LARGE = (1, 2), (1, 2, 4, 8, 16)
COMPILED_SAMPLES = (1, 16)
"""Few, as compiling takes a minute or more for each; in a dry run the first."""


@dataclass(slots=True)
class Session:
    """What the stages share: the checkpoint, what is loaded of it, and the figures so far."""

    folder: Path
    device: str
    dtype: str
    samples: Sequence[int]
    rounds: int
    figures: dict[str, Any] = field(default_factory=dict)
    steps: list[engine.Figure] = field(default_factory=list)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)

    def pipeline(self, name: str, *, graphs: bool = True, compile_it: bool = False) -> Pipeline:
        """A pipeline of this name, loaded and prepared once."""
        if name not in self.pipelines:
            loaded = Pipeline.load(
                ModelConfig(
                    str(self.folder),
                    device=self.device,
                    dtype=self.dtype,
                    cuda_graphs=graphs,
                    compile=compile_it,
                )
            )
            if compile_it:
                loaded.take(loaded.compiled())
            loaded.prepare([2 * number for number in self.samples], tune=True)
            self.pipelines[name] = loaded
        return self.pipelines[name]


def equality(session: Session) -> None:
    """A mixed batch in float32 against diffusers' pipeline; the served type against float32; a
    recorded step against the same one that is not."""
    from tests.support.checkpoints import make_checkpoint  # noqa: PLC0415

    session.figures["float32_off"] = _mixed_batch_off(
        make_checkpoint(session.folder / "tiny"), session.device
    )
    served = session.pipeline("served")
    session.figures["served_off"] = dict(served.deviations())
    session.figures["graphs_equal"] = _same_bytes(
        served, session.pipeline("served, no graphs", graphs=False), session.samples
    )
    off = [session.figures["float32_off"] / 1e-3]
    off += [
        each / largest_deviation(served.dtype(part))
        for part, each in session.figures["served_off"].items()
    ]
    if not (max(off) < 1 and session.figures["graphs_equal"]):
        raise RuntimeError(f"not equal: {session.figures}")


def _mixed_batch_off(folder: Path, device: str) -> float:
    """The largest difference of final latents, in units of their standard deviation."""
    from tests.support.pipelines import draw, start  # noqa: PLC0415
    from tests.support.reference import Reference  # noqa: PLC0415

    torch.backends.cudnn.allow_tf32 = False
    pipeline = Pipeline.load(ModelConfig(str(folder), device=device, dtype="float32"))
    reference = Reference(folder, pipeline.model.device)
    wanted = [
        pipeline.model.defaults(n=2, guidance_scale=guidance, num_inference_steps=5, scheduler=each)
        for each, guidance in zip(Scheduler, (3.0, 1.0, 7.5, 2.0, 3.0) * 2, strict=True)
    ]
    requests = [start(pipeline, draw(i), each) for i, each in enumerate(wanted)]
    while running := [s for samples in requests for s in samples if s.steps_left]:
        pipeline.step(running)
    off = 0.0
    for i, samples in enumerate(requests):
        expected = reference.latents(draw(i), wanted[i])
        latents = torch.stack([sample.latents.cpu() for sample in samples])
        off = max(off, float((latents - expected).abs().max() / expected.std()))
    torch.backends.cudnn.allow_tf32 = True
    return off


def _same_bytes(one: Pipeline, other: Pipeline, samples: Sequence[int]) -> bool:
    """True where one step of each number of samples makes the same latents in both."""

    def stepped(pipeline: Pipeline, number: int) -> Tensor:
        started = engine.start(pipeline, number)
        pipeline.step(started, 2 * number).wait()
        return torch.stack([sample.latents for sample in started])

    return all(torch.equal(stepped(one, n), stepped(other, n)) for n in samples)


def steps(session: Session) -> None:
    """Steps as served, without graphs, and by diffusers, at each number of samples."""
    served = session.pipeline("served")
    unet = engine.diffusers_unet(session.folder, served)
    contenders = {
        "served": engine.served(served),
        "served, no graphs": engine.served(session.pipeline("served, no graphs")),
        "diffusers": engine.of_diffusers(unet, session.folder),
    }
    session.steps += engine.measure(contenders, session.samples, session.rounds, unet)


def picture(session: Session) -> None:
    """Seconds of one picture with guidance, from its encoder's input to its pixels."""
    served = session.pipeline("served")
    number = 2 if len(session.samples) == len(SMALL) else engine.STEPS_A_PICTURE
    parameters = served.model.defaults(
        guidance_scale=engine.GUIDANCE, num_inference_steps=number, scheduler=Scheduler.DDIM
    )
    grey = torch.full((64, 64, 3), 128, dtype=torch.uint8).numpy()
    pixels = served.preprocessing(grey, parameters.fit)
    condition = Condition.guided(pixels, engine.GUIDANCE)
    timed = in_turns({"served": lambda: served.generate(condition, parameters)}, 3)
    session.figures["picture"] = {"steps": number, "seconds": timed["served"].seconds}


def compiled(session: Session) -> None:
    """The steps again with both UNets compiled."""
    served = session.pipeline("served")
    unet = engine.diffusers_unet(session.folder, served)
    began = time.perf_counter()
    fast = session.pipeline("served, compiled", compile_it=True)
    session.figures["compile_seconds"] = time.perf_counter() - began
    contenders = {
        "served": engine.served(served),
        "served, compiled": engine.served(fast),
        "diffusers": engine.of_diffusers(unet, session.folder),
        "diffusers, compiled": engine.of_diffusers(unet, session.folder, compiled=True),
    }
    numbers = [number for number in COMPILED_SAMPLES if number in session.samples]
    found = engine.measure(contenders, numbers, session.rounds, unet)
    session.steps += [each for each in found if "compiled" in each.contender]
    session.figures["steps_beside_compiled"] = [asdict(each) for each in found]


STAGES: tuple[Callable[[Session], None], ...] = (equality, steps, picture, compiled)


def main(
    device: Annotated[str, typer.Option()] = "cuda",
    dtype: Annotated[str, typer.Option()] = "auto",
    small: Annotated[bool, typer.Option(help="A tiny model and few steps: a dry run.")] = False,
    compile_too: Annotated[bool, typer.Option("--compile/--no-compile")] = True,
    minutes: Annotated[float, typer.Option(help="No stage begins later.")] = 5.0,
    publish_anyway: PublishAnyway = False,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS,
) -> None:
    """Run the stages one after the other, and hand in the figures after each."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --device cpu --small is a dry run without one")
    stages = [each for each in STAGES if compile_too or each is not compiled]
    name = "gpu-dry-run" if small or device == "cpu" else "gpu"

    def hand_in(run: Run, session: Session) -> None:
        content = {**session.figures, "steps": [asdict(each) for each in session.steps]}
        table, plots = engine.table(session.steps), engine.plots(session.steps)
        shown = plots if session.steps else []
        write(name, run, content, table, shown, publish_anyway=publish_anyway, folder=output)

    model = "tiny" if small else "full-size"
    with recording(gpu=engine.gpu_name(device)) as run, engine.checkpoint(model) as folder:
        session = Session(folder, device, dtype, SMALL if small else LARGE, 3 if small else 15)
        for stage in stages:
            if run.seconds > 60 * minutes:
                session.figures.setdefault("left_out", []).append(stage.__name__)
                continue
            began = time.perf_counter()
            stage(session)
            session.figures[f"{stage.__name__}_took"] = time.perf_counter() - began
            hand_in(run, session)
    hand_in(run, session)


if __name__ == "__main__":
    typer.run(main)
