"""What the service itself adds to a request: ``python -m benchmarks.overhead``.

Requests for one picture of one step are posted one after the other to a real server. What each took
for its caller, less what its answer says of reading the picture, of the model's stages and of
writing the file, is the service's own: HTTP, form, admission, prediction, pipes, JSON and base64.
The form is written once, before, and the answer is parsed once its time is taken: what a caller's
library does is not the service's.
"""

import http.client
import json
import statistics
import time
from http import HTTPStatus
from typing import Annotated, Any

import httpx
import typer

from benchmarks.batching import gradient_png, serving
from benchmarks.report import PublishAnyway, recording, write

OF_OTHERS = ("read", "encode", "denoise", "decode", "safety", "write")
"""Stages that are the model's, or the picture libraries'."""

FORM = {"num_inference_steps": "1", "scheduler": "ddim", "guidance_scale": "1", "seed": "1"}

TARGET_MILLISECONDS = 5.0


def measure(server: str, requests: int) -> dict[str, Any]:
    """Milliseconds of the service's own for each of so many requests, and of all of it."""
    form = httpx.Request("POST", f"{server}/variations", files={"image": gradient_png()}, data=FORM)
    body, headers = form.read(), dict(form.headers)
    connection = http.client.HTTPConnection(form.url.host, form.url.port, timeout=600)
    whole, own = [], []
    for number in range(-requests // 10, requests):
        began = time.perf_counter()
        connection.request("POST", form.url.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"{response.status}: {answer.decode(errors='replace')}")
        timings = json.loads(answer)["timings"]
        if number >= 0:  # those before are for warming up
            whole.append(1000 * seconds)
            own.append(1000 * (seconds - sum(timings[name] for name in OF_OTHERS)))
    connection.close()
    return {
        "requests": requests,
        "whole_ms": statistics.median(whole),
        "own_ms": statistics.median(own),
        "own_p95_ms": statistics.quantiles(own, n=20)[-1],
        "target_ms": TARGET_MILLISECONDS,
    }


def main(
    requests: Annotated[int, typer.Option(help="How many are posted.")] = 300,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and hand in the figures."""
    with recording(("fastapi", "uvicorn", "pydantic")) as run, serving({}) as address:
        found = measure(address, requests)
    write("overhead", run, found, [found], publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
