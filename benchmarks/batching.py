"""The gain of batching by step over HTTP: ``python -m benchmarks.batching``.

Eight mixed requests, one after the other and all at once, against a real server: a ratio within one
run, because machines differ and are noisy. What a step takes is measured by ``benchmarks.engine``.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Annotated, Any

import httpx
import typer
from PIL import Image

from benchmarks.report import PublishAnyway, recording, write

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


def measure_requests(server: str, repeats: int) -> dict[str, Any]:
    """Seconds for :data:`REQUESTS` one after the other and all at once, medians of ``repeats``."""
    picture = gradient_png()
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


def gradient_png() -> bytes:
    """A picture, as a file."""
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


def main(
    model: Annotated[str, typer.Option(help="`demo`, or a checkpoint.")] = "demo",
    device: Annotated[str, typer.Option()] = "auto",
    dtype: Annotated[str, typer.Option()] = "auto",
    repeats: Annotated[int, typer.Option(help="Rounds of the eight requests.")] = 5,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and hand in the figures."""
    environment = {
        "VARIATIONS_MODEL": model,
        "VARIATIONS_DEVICE": device,
        "VARIATIONS_DTYPE": dtype,
    }
    with recording() as run, serving(environment) as address:
        found = measure_requests(address, repeats)
    figures = {"model": model, "device": device, "dtype": dtype, **found}
    write("batching", run, figures, [found], publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
