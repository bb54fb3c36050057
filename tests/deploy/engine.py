"""Containers run for real, with podman."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.deploy.files import ROOT

KEY: Final = "a-key-for-tests-alone"
HEADERS: Final = {"Authorization": f"Bearer {KEY}"}
PHOTO: Final = ROOT / "docs" / "pictures" / "coffee.jpg"

READY_SECONDS: Final = 300
END_SECONDS: Final = 120
LOCKED_DOWN: Final = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


def call(*command: object, **environment: str) -> str:
    """Run a command in the repository's root; its output, or a failure that shows its errors."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the service with its port 8000 on a free one of this machine's."""

    name: str

    @property
    def url(self) -> str:
        return "http://" + call("podman", "port", self.name, "8000").split()[0]

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(call("podman", "inspect", self.name))
        return found[0]

    def log(self) -> str:
        both = subprocess.run(
            ["podman", "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return both.stdout

    def wait(self) -> int:
        """Wait for the end of the container, and return its exit status."""
        return int(call("timeout", END_SECONDS, "podman", "wait", self.name))


@contextmanager
def running(image: str, *options: str, **environment: str) -> Iterator[Container]:
    """A container of an image, removed afterwards."""
    variables = [f"--env={name}={text}" for name, text in environment.items()]
    publish = "--publish=127.0.0.1::8000"
    name = call("podman", "run", "--detach", publish, *options, *variables, image).strip()
    try:
        yield Container(name)
    finally:
        call("podman", "rm", "--force", "--time=0", "--volumes", name)


def wait_until_ready(url: str) -> None:
    """Return once ``/readyz`` says so; the network or the process may not be there yet."""
    deadline = time.monotonic() + READY_SECONDS
    answer = "nothing"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=10)
        except httpx.TransportError as error:
            answer = repr(error)
        else:
            if response.status_code == 200:
                return
            answer = response.text
        time.sleep(0.2)
    raise AssertionError(f"{url} was not ready after {READY_SECONDS} s: {answer}")


def post(url: str, **fields: object) -> httpx.Response:
    """Post the photo for variations."""
    return httpx.post(
        f"{url}/variations",
        headers=HEADERS,
        files={"image": PHOTO.read_bytes()},
        data={name: str(value) for name, value in fields.items()},
        timeout=READY_SECONDS,
    )


def build(tag: str, scratch: Path, context: Path = ROOT, **arguments: str) -> str:
    """Build the image and return what was printed.

    The build takes packages from where pip takes them here, folders and certificates included.
    """
    values = [f"--build-arg={name}={text}" for name, text in arguments.items()]
    mounts = [f"--volume={source}:{target}:ro" for source, target in _pip_here(scratch).items()]
    options = ("--isolation=chroot", "--format=docker", "--layers", "--pull-never")
    return call("buildah", "bud", *options, *mounts, *values, f"--tag={tag}", context)


def _pip_here(scratch: Path) -> dict[Path, Path]:
    """The mounts, source to target, that set up pip in the build as pip is here."""
    config = configparser.RawConfigParser()
    config["global"] = {}
    mounts = {}
    listed = call(sys.executable, "-m", "pip", "config", "list")
    for line in listed.splitlines():
        name, _, quoted = line.partition("=")
        value = quoted.strip("'")
        config["global"][name.rpartition(".")[2]] = value
        for part in value.replace("\\n", " ").split():
            path = Path(part.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # An index in a folder points to files in others beside it.
                folder = path.parent if part.startswith("file://") else path
                mounts[folder] = folder
    file = scratch / "pip.conf"
    with file.open("w") as opened:
        config.write(opened)
    mounts[file] = Path("/etc/pip.conf")
    return mounts


def context_copy(folder: Path) -> Path:
    """A copy of what the image is built from, to be changed."""
    for name in ("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
