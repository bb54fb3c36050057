"""Cost of a very large upload for everybody else: ``python -m benchmarks.uploads``.

Two measurements against the running service with the built-in model:

* eight requests run, and a 50-megapixel JPEG is posted among them: the seconds of their steps
  meanwhile, over those of the same batch in the same run with no upload; with one thread for
  torch, and with as many as there are cores;
* four such pictures are decoded at once, again and again: the latency of ``GET /healthz``.

Step times are read from the worker's own reports, through an engine whose metrics keep them.
"""

import io
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
import uvicorn
from PIL import Image
from prometheus_client import CollectorRegistry

from app.api.application import create_app, start_message
from app.api.server import listen
from app.engine.engine import Engine
from app.ipc.messages import FromWorker, StepStats
from app.metrics import Metrics
from app.settings import Settings

RUNNING = 8
FORM = {"n": "1", "scheduler": "heun", "num_inference_steps": "100", "guidance_scale": "3"}


def large_jpeg(megapixels: int = 50) -> bytes:
    """A JPEG of noise blurred enough to be of a photograph's size."""
    width, height = 8660, int(megapixels * 1e6) // 8660
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of one number of rows, in seconds."""

    steps: int
    median: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Steps":
        """The steps of some period."""
        ordered = sorted(seconds)
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        return cls(len(ordered), statistics.median(ordered), p99, ordered[-1])


class RecordingEngine(Engine):
    """Keeps every step with the moment at which it was reported."""

    steps: list[tuple[float, StepStats]]

    def receive(self, message: FromWorker) -> None:
        """Keep a step, and go on as usual."""
        if isinstance(message, StepStats):
            self.steps.append((time.perf_counter(), message))
        super().receive(message)


@contextmanager
def service() -> Iterator[tuple[str, RecordingEngine]]:
    """The service with the built-in model, in this process; gives its address."""
    settings = Settings(max_rows=2 * RUNNING, max_queue=64)
    engine = RecordingEngine(start_message(settings), Metrics(CollectorRegistry()).engine)
    engine.steps = []
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(settings, engine), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = "http://{}:{}".format(*listener.getsockname())
    try:
        while engine.state.phase != "ready":
            time.sleep(0.1)
        yield url, engine
    finally:
        server.should_exit = True
        thread.join()


def measure_steps(rounds: int, threads: int) -> dict[str, Any]:
    """Steps of eight requests without and with a large upload among them, alternating."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of torch, in the worker
    large = large_jpeg()
    usual: list[float] = []
    disturbed: list[float] = []
    with service() as (url, engine), httpx.Client(base_url=url, timeout=600) as client:
        post(client, large, n="1", num_inference_steps="1")  # all that only the first one pays for
        for number in range(2 * rounds):
            with_upload = number % 2 == 1
            engine.steps.clear()
            began, ended = run_eight(client, large if with_upload else None)
            seconds = full_steps(engine.steps, began, ended)
            (disturbed if with_upload else usual).extend(seconds)
    without, during = Steps.of(usual), Steps.of(disturbed)
    return {
        "rounds": rounds,
        "upload_megabytes": round(len(large) / 1e6, 1),
        "without": asdict(without),
        "while_it_is_uploaded_and_decoded": asdict(during),
        "ratio": {
            "median": during.median / without.median,
            "p99": during.p99 / without.p99,
            "longest": during.longest / without.longest,
            "longest_over_usual_median": during.longest / without.median,
        },
    }


def run_eight(client: httpx.Client, large: bytes | None) -> tuple[float, float]:
    """Run eight requests, with the large picture posted once they run; the time of its decoding."""
    small = large_jpeg(1)
    with ThreadPoolExecutor(RUNNING) as pool:
        running = [pool.submit(post, client, small, **FORM) for _ in range(RUNNING)]
        time.sleep(1.0)
        began = time.perf_counter()
        if large is None:
            time.sleep(1.5)
            ended = time.perf_counter()
        else:
            timings = post(client, large, n="1", num_inference_steps="1")["timings"]
            ended = began + timings["upload"] + timings["read"]
        for one in running:
            one.result()
    return began, ended


def full_steps(steps: list[tuple[float, StepStats]], began: float, ended: float) -> list[float]:
    """Seconds of the steps that overlap that time and had all eight requests in them."""
    return [
        stats.seconds
        for when, stats in steps
        if began <= when and when - stats.seconds <= ended and stats.requests == RUNNING
    ]


def post(client: httpx.Client, picture: bytes, **form: str) -> dict[str, Any]:
    """Post a picture; gives the answer."""
    response = client.post("/variations", files={"image": picture}, data=form)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def measure_health(seconds: float) -> dict[str, Any]:
    """Latency of ``/healthz``, quiet and while four large pictures are decoded at a time."""
    large = large_jpeg()
    environment = os.environ | {"VARIATIONS_PORT": "0", "VARIATIONS_DECODERS": "4"}
    command = [sys.executable, "-m", "app", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        for line in process.stdout:
            if "ready:" in line:
                break
        quiet = probe(url, seconds)
        stop = threading.Event()
        with httpx.Client(base_url=url, timeout=600) as client, ThreadPoolExecutor(4) as pool:
            decoded = [pool.submit(keep_posting, client, large, stop) for _ in range(4)]
            busy = probe(url, seconds)
            stop.set()
            pictures = sum(one.result() for one in decoded)
        process.terminate()
    return {"decoded": pictures, "quiet": quiet, "while_four_are_decoded": busy}


def keep_posting(client: httpx.Client, picture: bytes, stop: threading.Event) -> int:
    """Post the picture again and again; gives how often."""
    posted = 0
    while not stop.is_set():
        post(client, picture, n="1", num_inference_steps="1")
        posted += 1
    return posted


_PROBE = """
import http.client, json, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
connection, times = http.client.HTTPConnection(host, port), []
end = time.perf_counter() + seconds
while time.perf_counter() < end:
    began = time.perf_counter()
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    times.append(time.perf_counter() - began)
    time.sleep(0.005)
print(json.dumps(times))
"""


def probe(url: str, seconds: float) -> dict[str, float]:
    """Milliseconds of ``/healthz``, asked by a process of its own."""
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-c", _PROBE, host, port, str(seconds)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    times = sorted(1000 * one for one in json.loads(run.stdout))
    return {
        "requests": len(times),
        "median_ms": round(statistics.median(times), 2),
        "p99_ms": round(times[int(0.99 * (len(times) - 1))], 2),
        "longest_ms": round(times[-1], 2),
    }


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of eight requests, of each kind.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of asking for /healthz.")] = 20.0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path(
        "benchmarks/results/uploads.json"
    ),
) -> None:
    """Measure both, print the figures and write them to a file."""
    figures = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "steps_by_threads": {
            threads: measure_steps(rounds, threads) for threads in sorted({1, os.cpu_count() or 1})
        },
        "healthz": measure_health(seconds),
    }
    text = json.dumps(figures, indent=2) + "\n"
    out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    typer.run(main)
