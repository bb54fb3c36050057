"""The command line, run as its users run it but for the process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from app import __version__
from app.cli import app
from app.parameters import MAX_SEED
from tests.support.checkpoints import configure, make_checkpoint


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture(autouse=True)
def _tiny(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("VARIATIONS_DTYPE", "float32")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def values(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


def test_generate_writes_a_picture_a_seed_and_says_where(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("generate", photo, "-n", 2, "--seed", 5, "--steps", 2, "-o", out)
    assert result.exit_code == 0, result.output
    written = [out / "photo-5.png", out / "photo-6.png"]
    assert sorted(out.iterdir()) == written
    assert all(str(path) in result.output.replace("\n", "") for path in written)
    assert values(written[0]).shape == (64, 64, 3)


def test_generate_gives_the_same_picture_for_the_same_seed(photo: Path, tmp_path: Path) -> None:
    for folder, seed, n in (("a", 5, 2), ("b", 6, 1)):
        run("generate", photo, "-n", n, "--seed", seed, "--steps", 2, "-o", tmp_path / folder)
    first, second = (values(tmp_path / folder / "photo-6.png") for folder in "ab")
    assert np.abs(first - second).max() <= 1


def test_generate_explains_what_is_no_picture(tmp_path: Path) -> None:
    text = tmp_path / "photo.jpg"
    text.write_text("not a picture")
    result = run("generate", text)
    assert result.exit_code == 1
    assert "not a picture that can be read" in result.output


def test_a_wrong_setting_is_named(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIATIONS_DTYPE", "float8")
    result = run("generate", photo)
    assert result.exit_code == 2
    assert "VARIATIONS_DTYPE" in result.output


def test_the_last_seed_must_exist_too(photo: Path) -> None:
    result = run("generate", photo, "-n", 2, "--seed", MAX_SEED)
    assert result.exit_code == 1
    assert f"at most {MAX_SEED - 1}" in result.output


def test_a_folder_that_cannot_be_made_is_named(photo: Path) -> None:
    result = run("generate", photo, "-o", photo / "below-a-file")
    assert result.exit_code == 1
    assert "below-a-file" in result.output


def test_generate_imports_nothing_of_http(photo: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from app.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('imported:', {'fastapi', 'starlette', 'uvicorn', 'app.api'} & set(sys.modules))\n"
    )
    arguments = ["generate", str(photo), "-n", "1", "--steps", "1", "-o", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert "imported: set()" in ran.stdout


def test_version() -> None:
    assert run("--version").output.strip() == __version__


def test_where_the_system_is_not_meant_serve_says_which_are() -> None:
    """As on Windows, where Python has no such module."""
    code = "import sys; sys.modules['resource'] = None; sys.argv = ['variations', 'serve']\n"
    code += "from app.cli import app; app()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == ("The service runs on Linux and macOS; on Windows use WSL or Docker.\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--scheduler", "pndm"), "scheduler can be ddim, euler"),
        (("--scheduler", "deis", "--steps", 61), "num_inference_steps can be 1, 2, 5, 20, 50"),
    ],
)
def test_generate_names_what_the_checkpoint_offers_instead(
    options: tuple[object, ...],
    says: str,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    configure(folder, "scheduler", skip_prk_steps=None, num_train_timesteps=60)
    monkeypatch.setenv("VARIATIONS_MODEL", str(folder))
    result = run("generate", photo, *options, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert says in " ".join(result.output.split())
