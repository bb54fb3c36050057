"""Steps of the engine against diffusers' own, alternating in one process: ``python -m
benchmarks.engine``.

A step is all that happens from one UNet call to the next: here the gathering of rows, the call and
the solvers' multiply-add; there the loop body of ``StableDiffusionImageVariationPipeline`` for as
many pictures of one request. Both have the same weights, guidance and precision. On a GPU the step
is also compared with the shortest time that its arithmetic could take.

``--model full-size`` takes Stable Diffusion 1's architecture with random weights.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import diffusers
import numpy as np
import torch
import typer
from torch import Tensor

from app.parameters import Condition, ModelConfig, Scheduler
from app.pipeline import Pipeline, Sample
from app.pipeline.hub import find_checkpoint
from app.pipeline.known import known_revision
from benchmarks.contenders import Timed, in_turns
from benchmarks.report import Plot, PublishAnyway, recording, write
from benchmarks.roofline import flops, peak, shortest

STEPS_A_PICTURE = 50
GUIDANCE = 3.0

Steps = Callable[[int], Callable[[], object]]
"""For a number of samples, a function that takes them a step further."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Steps of so many samples, two rows each, by one contender.

    ``share_of_limit`` is the shortest time that the arithmetic could take over the time it took;
    none where that is not known. ``memory`` is the most bytes on the GPU at once.
    """

    samples: int
    contender: str
    step_seconds: float
    pictures_per_second: float
    over_diffusers: float | None
    share_of_limit: float | None
    memory: int | None


@contextmanager
def checkpoint(model: str) -> Iterator[Path]:
    """The folder of a checkpoint; for ``full-size`` and ``tiny`` one of random weights, for now."""
    if model in ("full-size", "tiny"):
        from tests.support.checkpoints import make_checkpoint  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            yield make_checkpoint(Path(folder), kind="sd1" if model == "full-size" else "tiny")
    else:
        yield find_checkpoint(model, known_revision(model), lambda *_: None, safety_checker=True)


def served(pipeline: Pipeline) -> Steps:
    """Steps of the engine, each padded to no more than its own rows."""

    def prepared(number: int) -> Callable[[], object]:
        samples: list[Sample] = []

        def step() -> None:
            if not samples or samples[0].steps_left == 0:
                samples[:] = start(pipeline, number)
            pipeline.step(samples, 2 * number).wait()

        return step

    return prepared


def start(pipeline: Pipeline, number: int, steps: int = 100) -> list[Sample]:
    """Samples with guidance before their first step."""
    parameters = pipeline.model.defaults(
        guidance_scale=GUIDANCE, num_inference_steps=steps, scheduler=Scheduler.DDIM
    )
    width, height = parameters.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = pipeline.preprocessing(noise, parameters.fit)
    rows = pipeline.condition(Condition.guided(pixels, GUIDANCE))
    return [pipeline.start(rows, parameters, index) for index in range(number)]


def diffusers_unet(folder: Path, pipeline: Pipeline) -> Any:
    """diffusers' UNet on the device and in the type that the pipeline is served with."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=pipeline.dtype("unet")
    )
    unet.eval().requires_grad_(False)
    return unet.to(pipeline.model.device, memory_format=torch.channels_last)


def of_diffusers(unet: Any, folder: Path, *, compiled: bool = False) -> Steps:
    """The loop body of diffusers' pipeline, its UNet compiled as its documentation says, or not."""
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)
    scheduler.set_timesteps(STEPS_A_PICTURE)
    call = torch.compile(unet, fullgraph=True, dynamic=False) if compiled else unet
    side = unet.config.sample_size

    def prepared(number: int) -> Callable[[], object]:
        options: dict[str, Any] = {"device": unet.device, "dtype": unet.dtype}
        latents = torch.randn(number, unet.config.in_channels, side, side, **options)
        embeddings = torch.randn(2 * number, 1, unet.config.cross_attention_dim, **options)
        timestep = scheduler.timesteps[STEPS_A_PICTURE // 2]

        def step() -> Tensor:
            doubled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
            noise = call(doubled, timestep, encoder_hidden_states=embeddings, return_dict=False)[0]
            without, with_picture = noise.chunk(2)
            guided = without + GUIDANCE * (with_picture - without)
            moved: Tensor = scheduler.step(guided, timestep, latents).prev_sample
            if moved.is_cuda:
                torch.cuda.synchronize()
            return moved

        return step

    return prepared


def measure(
    contenders: Mapping[str, Steps], samples: Sequence[int], rounds: int, unet: Any
) -> list[Figure]:
    """All contenders with each number of samples; those in memory only while they are measured."""
    found = []
    for number in samples:
        steps = {name: prepared(number) for name, prepared in contenders.items()}
        memory = {name: _most_memory(step) for name, step in steps.items()}
        timed = in_turns(steps, rounds)
        theirs = timed.get("diffusers")
        limit = _shortest(unet, 2 * number)
        found += [
            _figure(number, name, each, theirs, limit, memory[name]) for name, each in timed.items()
        ]
    return found


def _figure(
    number: int,
    name: str,
    own: Timed,
    theirs: Timed | None,
    limit: float | None,
    memory: int | None,
) -> Figure:
    return Figure(
        samples=number,
        contender=name,
        step_seconds=own.seconds,
        pictures_per_second=number / (own.seconds * STEPS_A_PICTURE),
        over_diffusers=theirs.seconds / own.seconds if theirs else None,
        share_of_limit=limit / own.seconds if limit else None,
        memory=memory,
    )


@torch.inference_mode()
def _most_memory(step: Callable[[], object]) -> int | None:
    """The most bytes of a GPU's memory in use during a step, all contenders' weights included."""
    if not torch.cuda.is_available():
        step()
        return None
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return int(torch.cuda.max_memory_allocated())


def _shortest(unet: Any, rows: int) -> float | None:
    """Seconds that a step's arithmetic takes at this GPU's peak, if that is known."""
    found = peak(torch.cuda.get_device_name()) if unet.device.type == "cuda" else None
    if found is None or unet.dtype not in (torch.float16, torch.bfloat16):
        return None
    weights = sum(each.numel() * each.element_size() for each in unet.parameters())
    return shortest(found, flops(unet, rows, unet.config.sample_size), weights)


def table(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """A row for each figure, with what is known of it."""
    first = {each.contender: each for each in reversed(figures)}
    return [
        {
            "samples": each.samples,
            "rows": 2 * each.samples,
            "": each.contender,
            "step, ms": 1000 * each.step_seconds,
            "pictures/s": each.pictures_per_second,
            "over its first": (
                f"{each.pictures_per_second / first[each.contender].pictures_per_second:.2f}×"
            ),
            "over diffusers": f"{each.over_diffusers:.2f}×" if each.over_diffusers else None,
            "of the limit": f"{each.share_of_limit:.0%}" if each.share_of_limit else None,
            "memory, GB": each.memory / 1e9 if each.memory else None,
        }
        for each in figures
    ]


def plots(figures: Sequence[Figure]) -> list[Plot]:
    """Step time and rate over the rows of a step."""
    steps: dict[str, list[tuple[float | str, float]]] = {}
    rates: dict[str, list[tuple[float | str, float]]] = {}
    for each in figures:
        steps.setdefault(each.contender, []).append((2 * each.samples, 1000 * each.step_seconds))
        rates.setdefault(each.contender, []).append((2 * each.samples, each.pictures_per_second))
    return [
        Plot("A step", "rows", "milliseconds", steps, log=True),
        Plot(f"Pictures of {STEPS_A_PICTURE} steps", "rows", "pictures/s", rates, log=True),
    ]


def gpu_name(device: str) -> str | None:
    """What CUDA calls the device, if it is one of its own."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def main(
    model: Annotated[str, typer.Option(help="`demo`, a checkpoint, or `full-size`.")] = "demo",
    device: Annotated[str, typer.Option()] = "auto",
    dtype: Annotated[str, typer.Option()] = "auto",
    samples: Annotated[str, typer.Option(help="Samples in a step, with commas.")] = "1,2,4,8,16",
    rounds: Annotated[int, typer.Option(help="Steps of each that are timed.")] = 20,
    compiled: Annotated[bool, typer.Option(help="Compile both too, for minutes.")] = False,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and hand in the figures."""
    numbers = [int(number) for number in samples.split(",")]
    with checkpoint(model) as folder:
        config = ModelConfig(str(folder), device=device, dtype=dtype)
        pipeline = Pipeline.load(config)
        pipeline.prepare([2 * number for number in numbers], tune=True)
        unet = diffusers_unet(folder, pipeline)
        with recording(gpu=gpu_name(pipeline.model.device)) as run:
            contenders = {"served": served(pipeline), "diffusers": of_diffusers(unet, folder)}
            if compiled:
                config = ModelConfig(str(folder), device=device, dtype=dtype, compile=True)
                fast = Pipeline.load(config)
                fast.take(fast.compiled())
                fast.prepare([2 * number for number in numbers], tune=True)
                contenders["served, compiled"] = served(fast)
                contenders["diffusers, compiled"] = of_diffusers(unet, folder, compiled=True)
            found = measure(contenders, numbers, rounds, unet)
    run.machine["threads"] = f"{torch.get_num_threads()} threads"
    name = "engine" if model == "demo" else f"engine-{Path(model).name}"
    figures = {
        "model": model,
        "device": pipeline.model.device,
        "dtype": pipeline.model.dtype,
        "steps": [asdict(each) for each in found],
    }
    write(name, run, figures, table(found), plots(found), publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
