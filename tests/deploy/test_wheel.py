"""A wheel, installed and run from a folder that has nothing to do with it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.deploy.engine import context_copy
from tests.deploy.files import ROOT
from tests.support.processes import service_process

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package out of its wheel, its dependencies elsewhere."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = context_copy(tmp_path_factory.mktemp("source"))  # the build leaves files behind
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture
def foreign_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules in it that would be imported if it were looked into."""
    for name in ("app", "torch", "numpy", "logging", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger was imported')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_wheel_serves_from_a_foreign_folder(installed: Path, foreign_folder: Path) -> None:
    code = "import sys; sys.argv = ['variations', 'serve']; from app.cli import app; app()"
    environment = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    with service_process(code, environment) as service:
        service.wait_for("ready:")
        photo = (ROOT / "docs" / "pictures" / "coffee.jpg").read_bytes()
        files = {"image": ("coffee.jpg", photo)}
        answer = httpx.post(f"{service.url}/variations", files=files, timeout=120)
        assert answer.status_code == 200, answer.text
        worker = Path(f"/proc/{service.worker_pid}/cmdline").read_text()
        assert str(installed) in worker
        assert httpx.get(f"{service.url}/docs").status_code == 200
        page = httpx.get(service.url, headers={"accept": "text/html"})
        for file in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
            assert httpx.get(f"{service.url}/{file}").status_code == 200, file
    assert foreign_folder.is_dir()


def test_the_command_of_a_wheel_serves_from_a_foreign_folder(
    installed: Path, foreign_folder: Path
) -> None:
    command = [sys.executable, str(installed / "bin" / "variations"), "--version"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run = subprocess.run(
        command, cwd=foreign_folder, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip()
