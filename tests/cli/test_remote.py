"""``generate --url``, above a service without a model."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from app.api.application import create_app
from app.cli import app
from app.errors import QueueFull
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.serving import Served, serving

KEY = "a-key-of-16-letters"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    settings = Settings(api_keys=(SecretStr(KEY),))
    engine, decoders = FakeEngine(), FakeDecoders(settings)
    with serving(create_app(settings, engine, decoders)) as url:
        yield Served(url, engine, decoders)


@pytest.fixture
def engine(served: Served, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setenv("VARIATIONS_API_KEY", KEY)
    served.engine.reset()
    return served.engine


@pytest.fixture
def photos(tmp_path: Path, png: bytes) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(png)
    return folder


def run(served: Served, *arguments: object) -> Result:
    given = ["generate", *arguments, "--url", served.url]
    return CliRunner().invoke(app, [str(each) for each in given])


def test_a_service_varies_all_pictures(
    served: Served, engine: FakeEngine, photos: Path, tmp_path: Path
) -> None:
    (photos / "text.png").write_text("no picture")
    engine.flagged = frozenset({1})
    sheet = tmp_path / "sheet.png"
    options = ("-n", 2, "--seed", 3, "--steps", 2, "--scheduler", "lms", "--width", 96, "--json")
    result = run(served, photos, *options, "--sheet", sheet, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{photos / 'text.png'}: The file is not a picture" in result.stderr
    lines = sorted(map(json.loads, result.stdout.splitlines()), key=lambda line: line["input"])
    assert len(lines) == 12
    assert [line["flagged"] for line in lines[:2]] == [False, True]
    assert lines[0]["file"] == str(tmp_path / "out" / "0-3.png")
    assert lines[1]["file"] is None
    assert lines[0]["parameters"]["scheduler"] == "lms"
    assert lines[0]["parameters"]["width"] == 96
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert sheet.exists()


def test_a_busy_service_is_waited_for(
    served: Served, engine: FakeEngine, photos: Path, tmp_path: Path
) -> None:
    (photos / "0.png").rename(tmp_path / "0.png")
    engine.error = QueueFull("full", retry_after=0.01)
    submit, tries = engine.submit, []

    def later(*arguments: object, **named: object) -> object:
        tries.append(arguments)
        engine.error = engine.error if len(tries) < 3 else None
        return submit(*arguments, **named)  # type: ignore[arg-type]

    engine.submit = later  # type: ignore[assignment, method-assign]
    try:
        result = run(served, tmp_path / "0.png", "-n", 1, "-o", tmp_path / "out")
    finally:
        del engine.submit
    assert result.exit_code == 0, result.output
    assert len(tries) == 3


def test_what_is_wrong_with_all_is_said_once(
    served: Served, engine: FakeEngine, photos: Path, tmp_path: Path
) -> None:
    result = run(served, photos, "--width", 5000, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.count("width x height can be 64x64, 96x64") == 1
    result = run(served, photos, "--api-key", "wrong", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("Not authorized") == 1


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """A shell has its background jobs ignore it, and their children with them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_it_cleanly(
    served: Served, engine: FakeEngine, photos: Path, tmp_path: Path
) -> None:
    engine.gate.held = True
    command = ["-m", "app", "generate", photos, "--url", served.url, "-o", tmp_path / "out"]
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert engine.gate.reached.acquire(timeout=60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert said.splitlines() == ["Interrupted"]
    engine.gate.open()
    assert list((tmp_path / "out").iterdir()) == []
