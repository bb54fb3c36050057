"""A real Prometheus over the running service: rules, alerts, and every panel of the dashboard."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any, Final

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from app.training.world import draw, sample_held_out
from tests.deploy.dashboard import DASHBOARD, FIGURES, queries
from tests.deploy.engine import call
from tests.deploy.files import DEPLOY, ROOT
from tests.support.pictures import picture_file
from tests.support.processes import ServiceProcess, service_process

pytestmark = pytest.mark.deploy

RULES: Final = DEPLOY / "prometheus" / "rules" / "variations.yml"
GPU_PANELS: Final = {"Device memory", "Device busy"}
EVERYTHING_SECONDS: Final = 120
_VARIABLES: Final = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m", "$__range": "5m"}


def test_the_configuration_and_the_rules_are_sound() -> None:
    call("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    call("promtool", "test", "rules", ROOT / "tests" / "deploy" / "rules_test.yml")


def test_the_dashboard_is_of_grafanas_own_types() -> None:
    promtool = shutil.which("promtool")
    assert promtool
    node = Path(promtool).parents[1] / "node"
    dashboard = json.loads(DASHBOARD.read_text())
    for annotation in dashboard["annotations"]["list"]:
        # The types know of no data source's own part of an annotation's query.
        del annotation["target"]["expr"], annotation["target"]["legendFormat"]
    file = node / "dashboard.mts"
    file.write_text(_PROGRAM % json.dumps(dashboard))
    options = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022")
    modules = ("--module", "nodenext", "--moduleResolution", "nodenext")
    call(node / "node_modules" / ".bin" / "tsc", *options, *modules, file)


# In a file the members of enumerations are plain strings.
_PROGRAM: Final = """
import type { Dashboard } from "@grafana/schema";
type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]
    : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export const dashboard: Plain<Dashboard> = %s;
"""


class Prometheus:
    """A server that scrapes one service every second, and a client of it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples that a query gives now, those that are no number left out."""
        for name, value in _VARIABLES.items():
            query = query.replace(name, value)
        answer = self._client.post("/api/v1/query", data={"query": query})
        assert answer.status_code == 200, (query, answer.text)
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return [one for one in result if not math.isnan(float(one["value"][1]))]

    def alerts(self) -> set[str]:
        """The names of all that fire."""
        answer = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in answer if one["state"] == "firing"}


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with our own configuration, hurried, over one service."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace("15s", "1s")
    config = yaml.safe_load(text)
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    config["rule_files"] = [str(RULES)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "log"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
    ]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            with httpx.Client(base_url=f"http://{_address(process, log)}", timeout=30) as client:
                yield Prometheus(client)
        finally:
            process.kill()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address it listens on, once its log says that it is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        if any("ready to receive web requests" in line.get("msg", "") for line in lines):
            return str(next(line["address"] for line in lines if line.get("msg") == "Listening on"))
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def blocked() -> bytes:
    """A drawing of what the built-in model's safety checker stops."""
    random = np.random.default_rng(0)
    (scene,) = sample_held_out(1, random, blocked=True)
    file = BytesIO()
    Image.fromarray(draw(scene, random)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def service() -> Iterator[ServiceProcess]:
    with service_process(max_queue="6", log_level="error") as service:
        service.wait_for("ready:")
        yield service


def test_every_panel_shows_something_and_an_alert_fires(
    service: ServiceProcess, tmp_path: Path
) -> None:
    target = service.url.removeprefix("http://")
    with prometheus(target, tmp_path) as server, trouble(service):
        missing = dict.fromkeys(
            (panel["title"], target["expr"])
            for panel, target in queries()
            if panel["title"] not in GPU_PANELS
        )
        deadline = time.monotonic() + EVERYTHING_SECONDS
        flapping = False
        while (missing or not flapping) and time.monotonic() < deadline:
            missing = {one: None for one in missing if not server.ask(one[1])}
            flapping = flapping or "VariationsWorkerFlapping" in server.alerts()
            time.sleep(0.5)
        assert not missing
        assert flapping
        figures = [
            {
                "panel": panel["title"],
                "query": target["expr"],
                "value": _in_words(server.ask(target["expr"])),
            }
            for panel, target in queries()
        ]
    if "VARIATIONS_FIGURES" in os.environ:
        FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def trouble(service: ServiceProcess) -> Iterator[None]:
    """Run callers of every kind, and kill the worker four times."""
    enough = Event()
    picture, skull = picture_file("PNG"), blocked()
    kinds: list[dict[str, Any]] = [
        {"image": picture, "scheduler": "ddim", "n": 2, "num_inference_steps": 10},
        {"image": picture, "scheduler": "euler", "guidance_scale": 1, "num_inference_steps": 20},
        {"image": skull, "n": 4},
        {"image": b"no picture"},
        {"image": picture, "n": 99},
        {"image": picture, "scheduler": "heun", "num_inference_steps": 60, "leave": True},
    ]

    def call_again_and_again(number: int) -> None:
        with httpx.Client(base_url=service.url) as client:
            while not enough.is_set():
                form = dict(kinds[number % len(kinds)])
                files = {"image": form.pop("image")}
                wait = 0.5 if form.pop("leave", False) else 120
                data = {name: str(value) for name, value in form.items()}
                with suppress(httpx.TransportError):
                    answer = client.post("/variations", files=files, data=data, timeout=wait)
                    if answer.status_code != 200:
                        enough.wait(1)

    def kill() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            killed = 0
            while killed < 4 and not enough.wait(3):
                pid = service.worker_pid
                if pid and client.get("/readyz").status_code == 200:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

    with ThreadPoolExecutor(13) as pool:
        callers = [pool.submit(call_again_and_again, number) for number in range(12)]
        callers.append(pool.submit(kill))
        try:
            yield
        finally:
            enough.set()
    for caller in callers:
        caller.result()


def _in_words(samples: list[dict[str, Any]]) -> str:
    """The first few values with what tells them apart."""
    if not samples:
        return "nothing"
    shown = []
    for sample in samples[:3]:
        labels = sample["metric"]
        name = next((labels[n] for n in labels if n not in ("__name__", "instance", "job")), "")
        value = f"{float(sample['value'][1]):.3g}"
        shown.append(f"{name}: {value}" if name else value)
    more = len(samples) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")
