"""The command that makes certificates for trying signed files."""

import stat
from pathlib import Path

from typer.testing import CliRunner, Result

from app.cli import app
from app.settings import Settings


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["certificate", *map(str, arguments)])


def test_it_makes_what_the_settings_that_it_prints_need(tmp_path: Path) -> None:
    result = run("--out", tmp_path / "c2pa")
    assert result.exit_code == 0, result.output
    printed = dict(line.split("=", 1) for line in result.output.splitlines())
    assert list(printed) == ["VARIATIONS_C2PA_CERTIFICATE", "VARIATIONS_C2PA_KEY"]
    given = {name.removeprefix("VARIATIONS_").lower(): Path(it) for name, it in printed.items()}
    assert Settings(**given).signer()  # type: ignore[arg-type]
    assert stat.S_IMODE(given["c2pa_key"].stat().st_mode) == 0o600
    assert (tmp_path / "c2pa" / "authority.pem").exists()


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("mine")
    result = run("--out", tmp_path)
    assert result.exit_code == 1
    assert "key.pem is there already; choose another folder with --out" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("--out", tmp_path / "file" / "below")
    assert result.exit_code == 1
    assert "file" in result.output
