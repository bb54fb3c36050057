"""The gain of batching by step: ``python -m benchmarks.batching``.

Two measurements, each a ratio within one run because machines differ and are noisy:

* the seconds of one step and the pictures a second with 1, 2, 4, 8 and 16 samples in it,
* eight mixed requests over HTTP, one after the other and all at once, against a real server.

``--model full-size`` measures the Stable Diffusion 1 architecture with random weights instead of
the built-in checkpoint; ``--device cuda`` and ``--dtype`` are what they are in the settings.
"""

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
from PIL import Image

from app.parameters import Condition, ModelConfig, Scheduler
from app.pipeline import Pipeline, Sample

SAMPLES = (1, 2, 4, 8, 16)
REQUESTS: tuple[dict[str, Any], ...] = (
    {"scheduler": "pndm", "num_inference_steps": 20, "guidance_scale": 3.0, "n": 1},
    {"scheduler": "ddim", "num_inference_steps": 30, "guidance_scale": 2.0, "n": 1},
    {"scheduler": "euler", "num_inference_steps": 25, "guidance_scale": 1.0, "n": 2},
    {"scheduler": "dpmsolver++", "num_inference_steps": 20, "guidance_scale": 5.0, "n": 1},
    {"scheduler": "unipc", "num_inference_steps": 15, "guidance_scale": 3.0, "n": 2},
    {"scheduler": "lms", "num_inference_steps": 25, "guidance_scale": 3.0, "n": 1},
    {"scheduler": "heun", "num_inference_steps": 12, "guidance_scale": 4.0, "n": 1},
    {"scheduler": "deis", "num_inference_steps": 20, "guidance_scale": 1.5, "n": 1},
)


@dataclass(frozen=True, slots=True)
class StepTime:
    """The median step of one batch size; a picture is 50 such steps."""

    samples: int
    rows: int
    step_seconds: float
    pictures_per_second: float
    gain_over_one: float


def measure_steps(pipeline: Pipeline, steps: int) -> list[StepTime]:
    """Seconds of a guided step for each size of batch, after one warm-up step."""
    first: float | None = None
    measured = []
    for samples in SAMPLES:
        seconds = _median_step(pipeline, _start(pipeline, samples, steps + 2))
        rate = samples / (seconds * 50)
        first = first or rate
        measured.append(StepTime(samples, 2 * samples, seconds, rate, rate / first))
    return measured


def _start(pipeline: Pipeline, samples: int, steps: int) -> list[Sample]:
    parameters = pipeline.model.defaults(
        n=samples, guidance_scale=3.0, num_inference_steps=steps, scheduler=Scheduler.DDIM
    )
    width, height = parameters.size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = pipeline.preprocessing(noise, parameters.fit)
    rows = pipeline.condition(Condition.guided(pixels, parameters.guidance_scale))
    return [pipeline.start(rows, parameters, index) for index in range(samples)]


def _median_step(pipeline: Pipeline, samples: list[Sample]) -> float:
    pipeline.step(samples).wait()
    seconds = []
    while samples[0].steps_left:
        begin = time.perf_counter()
        pipeline.step(samples).wait()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure_requests(server: str, repeats: int) -> dict[str, Any]:
    """Seconds for :data:`REQUESTS` one after the other and all at once, medians of ``repeats``."""
    picture = _gradient_png()
    with httpx.Client(base_url=server, timeout=600) as client, ThreadPoolExecutor(8) as pool:

        def post(fields: dict[str, Any]) -> None:
            form = {name: str(value) for name, value in fields.items()} | {"seed": "1"}
            client.post("/variations", files={"image": picture}, data=form).raise_for_status()

        list(map(post, REQUESTS))
        pairs = [
            (
                _timed(lambda: list(map(post, REQUESTS))),
                _timed(lambda: list(pool.map(post, REQUESTS))),
            )
            for _ in range(repeats)
        ]
    serial, together = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "requests": len(REQUESTS),
        "pictures": sum(int(request["n"]) for request in REQUESTS),
        "one_after_the_other_seconds": serial,
        "at_once_seconds": together,
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _gradient_png() -> bytes:
    file = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "PNG")
    return file.getvalue()


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[str]:
    """A real server in a process of its own, ready; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", str(port)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            if httpx.get(f"{address}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server ended with {process.returncode} before it was ready")


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} × {platform.machine()}"


def main(
    model: Annotated[str, typer.Option(help="`demo`, a checkpoint, or `full-size`.")] = "demo",
    device: Annotated[str, typer.Option()] = "auto",
    dtype: Annotated[str, typer.Option()] = "auto",
    steps: Annotated[int, typer.Option(help="Steps timed for each size.")] = 20,
    repeats: Annotated[int, typer.Option(help="Rounds of the eight requests; 0: none.")] = 5,
    output: Annotated[Path, typer.Option()] = Path("benchmarks/results/batching.json"),
) -> None:
    """Measure and write the figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        name = model
        if model == "full-size":
            from tests.support.checkpoints import make_checkpoint  # noqa: PLC0415

            make_checkpoint(Path(folder), kind="sd1")
            model = folder
        environment = {
            "VARIATIONS_MODEL": model,
            "VARIATIONS_DEVICE": device,
            "VARIATIONS_DTYPE": dtype,
        }
        pipeline = Pipeline.load(ModelConfig(model, device=device, dtype=dtype))
        figures: dict[str, Any] = {
            "command": f"python -m benchmarks.batching --model {name} --device {device}",
            "machine": _machine(pipeline.model.device),
            "device": pipeline.model.device,
            "dtype": pipeline.model.dtype,
            "torch": torch.__version__,
            "size": list(pipeline.model.sizes[0]),
            "steps": [asdict(row) for row in measure_steps(pipeline, steps)],
        }
        del pipeline
        if repeats:
            with serving(environment) as address:
                figures["requests"] = measure_requests(address, repeats)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2) + "\n")
    typer.echo(output.read_text())


if __name__ == "__main__":
    typer.run(main)
