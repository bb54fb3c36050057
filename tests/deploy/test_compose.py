"""The compose file is run: the service, and a Prometheus that finds it under its name."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml

from tests.deploy.engine import KEY, call, post, wait_until_ready
from tests.deploy.files import COMPOSE

pytestmark = pytest.mark.deploy

SCRAPE_SECONDS: Final = 60


@pytest.mark.parametrize("profile", ["", "gpu"])
def test_compose_itself_accepts_it(profile: str) -> None:
    call("docker-compose", "config", "-q", COMPOSE_PROFILES=profile, VARIATIONS_API_KEYS=KEY)


def test_without_keys_it_says_what_is_missing() -> None:
    with pytest.raises(AssertionError, match="set it to the keys"):
        call("docker-compose", "config", "-q", VARIATIONS_API_KEYS="")


@pytest.fixture
def project(image: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The addresses of the running service and of Prometheus, on free ports."""
    call("podman", "tag", image, "localhost/variations:cpu")
    addresses = {
        "variations": f"127.0.0.1:{_free_port()}",
        "prometheus": f"127.0.0.1:{_free_port()}",
    }
    inside = {"variations": 8000, "prometheus": 9090}
    override = {
        "services": {
            name: {"ports": [f"{address}:{inside[name]}"]} for name, address in addresses.items()
        }
    }
    file = tmp_path / "ports.yml"
    file.write_text(yaml.safe_dump(override).replace("ports:", "ports: !override"))
    compose = ("podman-compose", "-p", "variations-test", "-f", str(COMPOSE), "-f", str(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "VARIATIONS_API_KEYS", KEY)
        try:
            call(*compose, "up", "--no-build", "--detach", "variations", "prometheus")
            yield addresses
            call(*compose, "stop", "variations")
            state = json.loads(call("podman", "inspect", "variations-test_variations_1"))[0][
                "State"
            ]
            assert state["ExitCode"] == 0
        finally:
            call(*compose, "down", "--volumes")


def test_the_service_answers_and_prometheus_scrapes_it(project: dict[str, str]) -> None:
    url = f"http://{project['variations']}"
    wait_until_ready(url)
    assert post(url, num_inference_steps=5).status_code == 200
    query = f"http://{project['prometheus']}/api/v1/query"
    deadline = time.monotonic() + SCRAPE_SECONDS
    pictures: list[object] = []
    while not pictures and time.monotonic() < deadline:
        time.sleep(0.5)
        asked = {"query": 'variations_pictures_total{job="variations", outcome="ok"} > 0'}
        answer = httpx.get(query, params=asked)
        if answer.status_code == 200:
            pictures = answer.json()["data"]["result"]
    assert pictures


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
