"""The systems that are compared, each started afresh as its users start it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from benchmarks.peers.load import Dialect

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "app" / "checkpoints" / "demo"
PEERS = ROOT / ".peers" / "bin"
START_SECONDS = 300.0

Batches = Literal["none", "requests", "steps"]


@dataclass(frozen=True, slots=True)
class System:
    """What is started, and how it is spoken to.

    ``module`` is the file beside this one; the service has none. ``batches`` says what shares a
    call of the model: nothing, whole requests, or steps. ``extra`` is its package in ``.peers``,
    for those that need one.
    """

    name: str
    module: str | None
    batches: Batches
    dialect: Dialect = "json"
    extra: str | None = None

    def command(self, port: int) -> list[str]:
        """The command that serves on this port."""
        python = str(PEERS / "python" if self.extra else sys.executable)
        if self.module is None:
            return [python, "-m", "app", "serve", "--port", str(port)]
        module = f"benchmarks.peers.{self.module}"
        if self.extra == "bentoml":
            bentoml = [python, "-m", "bentoml", "serve", f"{module}:Variations"]
            return [*bentoml, "--host", "127.0.0.1", "--port", str(port)]
        return [python, "-m", module]


SERVICE = System("this service", None, "steps", "form")
FASTAPI_LOCK = System("FastAPI + lock", "fastapi_lock", "none")
REQUEST_BATCHER = System("ideal request batcher", "request_batcher", "requests")
STEP_BATCHER = System("step batcher", "step_batcher", "steps")
SYSTEMS = {
    system.module or "service": system
    for system in (
        SERVICE,
        FASTAPI_LOCK,
        System("LitServe", "on_litserve", "requests", extra="litserve"),
        System("BentoML", "on_bentoml", "requests", "bentoml", extra="bentoml"),
        System("mosec", "on_mosec", "requests", extra="mosec"),
        System("Ray @serve.batch", "on_ray", "requests", extra="ray"),
        REQUEST_BATCHER,
        STEP_BATCHER,
    )
}
"""By the name that ``--only`` takes."""


@contextmanager
def started(system: System, environment: dict[str, str]) -> Iterator[str]:
    """The address of a new ``system``, which has bound its port; it ends with the block.

    ``environment`` is added to this process's own. What it writes goes to a file, whose end is in
    the :class:`RuntimeError` raised where it does not start.
    """
    port = _free_port()
    own = {"PEER_PORT": str(port), "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    log = ROOT / "out" / "peers" / f"{system.module or 'service'}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            system.command(port),
            env=_bare() | own | environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url + ("/readyz" if system is SERVICE else "/variations"), process, log)
        yield url + "/variations"
    finally:
        _end(process)


def _bare() -> dict[str, str]:
    """This process's environment, without what would set up the service, or torch's threads."""
    set_up = ("VARIATIONS_", "PEER_", "OMP_", "MKL_", "GOMP_", "KMP_")
    return {name: value for name, value in os.environ.items() if not name.startswith(set_up)}


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until there is an answer from ``url``: of the service its own yes, of a peer any."""
    ready = url.endswith("/readyz")
    end = time.monotonic() + START_SECONDS
    with httpx.Client() as client:  # one for all questions: it must not disturb what starts measure
        while time.monotonic() < end and process.poll() is None:
            with suppress(httpx.TransportError):
                status = client.get(url).status_code
                if status == httpx.codes.OK if ready else status not in (502, 503):
                    return
            time.sleep(0.5)
    raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, which have its session."""
    for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
