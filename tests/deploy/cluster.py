"""A real Ray cluster, and the service on it, through Ray's own commands."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from app.api.server import listen
from tests.deploy.engine import KEY, call
from tests.deploy.files import DEPLOY

RAY: Final = DEPLOY / "ray"
BIN: Final = Path(sys.executable).parent
MOST_SECONDS: Final = 180
END_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as Ray's dashboard knows it."""

    id: str
    pid: int

    @property
    def worker(self) -> int:
        """The process id of its worker, which is not its only child."""
        return int(call("pgrep", "--parent", self.pid, "--full", r"app\.worker"))


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster whose proxy will listen on ``url``."""

    url: str
    dashboard: str
    folder: Path
    token: str

    @property
    def authentication(self) -> dict[str, str]:
        """The environment in which Ray knows this cluster's token, and takes no other."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def submit(self, name: str, replicas: int | None = None, **environment: str) -> None:
        """Deploy a file of ``deploy/ray`` with the built-in model, on our port, changed so."""
        config = yaml.safe_load((RAY / name).read_text())
        host, _, port = self.url.removeprefix("http://").partition(":")
        config["http_options"] |= {"host": host, "port": int(port)}
        (application,) = config["applications"]
        variables = application["runtime_env"]["env_vars"]
        variables |= {"VARIATIONS_MODEL": "demo", "OMP_NUM_THREADS": "1"} | environment
        (deployment,) = application["deployments"]
        if replicas is not None:
            deployment["num_replicas"] = replicas
            # There is none, but Ray goes by what it was told: so each node gets one replica.
            deployment["ray_actor_options"]["num_gpus"] = 1
        file = self.folder / name
        file.write_text(yaml.safe_dump(config))
        command = (BIN / "serve", "deploy", "--address", self.dashboard, file)
        call(*command, **self.authentication)

    def deploy(self, replicas: int, **environment: str) -> list[Replica]:
        """So many replicas on the CPU, all of them ready and no others left."""
        self.submit("cpu.yaml", replicas, **environment)
        wait_until(lambda: self._settled(replicas))
        return self.replicas()

    def replicas(self) -> list[Replica]:
        """The replicas that take requests."""
        return [
            Replica(one["replica_id"], one["pid"])
            for one in self.deployment().get("replicas", ())
            if one["state"] == "RUNNING"
        ]

    def deployment(self) -> dict[str, Any]:
        """All that Ray knows of the deployment; empty while there is none."""
        found: dict[str, Any] = self.application().get("deployments", {})
        return dict(found.get("Variations", {}))

    def application(self) -> dict[str, Any]:
        """All that Ray knows of the application; empty while there is none."""
        details = httpx.get(
            f"{self.dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        return dict(details.json()["applications"].get("variations", {}))

    def addresses(self) -> dict[str, str]:
        """The address of each replica's metrics, by its id, as Prometheus is told."""
        groups = httpx.get(f"{self.url}/metrics/replicas").json()
        return {one["labels"]["replica"]: f"http://{one['targets'][0]}" for one in groups}

    def _settled(self, replicas: int) -> bool:
        known = self.deployment().get("replicas", ())
        return (
            self.application()["status"] == "RUNNING"
            and len(known) == len(self.replicas()) == replicas
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster of its own for the length of a ``with`` block, next to whatever else runs.

    It has two nodes, both on this machine, and each says that it has a GPU.
    """
    proxy, gcs, dashboard, client = (free_port() for _ in range(4))
    # Short: the names of sockets in it may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, ExitStack() as nodes:
        head = {
            "port": gcs,
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "temp-dir": folder,
        }
        running = Cluster(
            url=f"http://127.0.0.1:{proxy}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            folder=Path(folder),
            token=secrets.token_hex(32),
        )
        environment = running.authentication
        nodes.enter_context(_node("--head", environment, gpu="0", **head))
        wait_until(lambda: running.application() == {})
        nodes.enter_context(_node(f"--address=127.0.0.1:{gcs}", environment, gpu="5"))
        yield running


@contextmanager
def _node(role: str, environment: dict[str, str], gpu: str, **values: object) -> Iterator[None]:
    """A node of a cluster, set up as deploy/README.md says."""
    values |= {
        "num-cpus": 4,
        "num-gpus": 1,
        "object-store-memory": 100 * 2**20,
        "dashboard-agent-listen-port": free_port(),
    }
    environment = environment | {
        "PYTHONPATH": str(RAY),
        "VARIATIONS_API_KEYS": KEY,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
        "CUDA_VISIBLE_DEVICES": gpu,
    }
    process = subprocess.Popen(
        [BIN / "ray", "start", "--block", role, *(f"--{k}={v}" for k, v in values.items())],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for what only Ray can bring about."""
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        with suppress(httpx.TransportError, ValueError, KeyError):
            if happened():
                return
        time.sleep(0.2)
    raise AssertionError("it did not happen")


def free_port() -> int:
    """A port that nobody listens on."""
    with listen("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port
