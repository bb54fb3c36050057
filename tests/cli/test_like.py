"""A picture again, from its file alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from app.cli import app
from app.pictures.encode import OutputFormat, encode
from app.pictures.provenance import read_origin
from tests.support.pictures import picture_file, quarters
from tests.support.processes import ServiceProcess, service_process


def settings(checkpoint: Path) -> list[tuple[str, str]]:
    return [("MODEL", str(checkpoint)), ("DEVICE", "cpu"), ("DTYPE", "float32")]


@pytest.fixture(autouse=True)
def _tiny(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings(tiny_checkpoint):
        monkeypatch.setenv(f"VARIATIONS_{name}", value)


@pytest.fixture(scope="module")
def service(tiny_checkpoint: Path) -> Iterator[ServiceProcess]:
    with service_process(
        model=str(tiny_checkpoint), device="cpu", dtype="float32", fixed_bucket="true"
    ) as service:
        service.wait_for("ready:")
        yield service


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A picture that the command line has made with a fixed bucket."""
    folder = tmp_path_factory.mktemp("made")
    photo = folder / "photo.png"
    photo.write_bytes(picture_file("PNG"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (*settings(tiny_checkpoint), ("FIXED_BUCKET", "true")):
            patch.setenv(f"VARIATIONS_{name}", value)
        result = run(photo, "-n", 2, "--seed", 5, "--steps", 2, "-o", folder)
    assert result.exit_code == 0, result.output
    return (folder / "photo-6.png").read_bytes()


@pytest.fixture
def file(made: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "photo-6.png"
    path.write_bytes(made)
    return path


def changed(path: Path, **changes: object) -> Path:
    """The file with another origin."""
    origin = replace(read_origin(path), **changes)  # type: ignore[arg-type]
    other = path.with_name("changed.png")
    other.write_bytes(encode(quarters(), OutputFormat.PNG, origin))
    return other


@pytest.mark.parametrize("kind", OutputFormat)
def test_a_file_of_a_service_with_a_fixed_bucket_is_repeated_to_the_byte(
    service: ServiceProcess, tmp_path: Path, kind: OutputFormat
) -> None:
    fields = {"n": "1", "seed": "7", "num_inference_steps": "4", "guidance_scale": "2.5"}
    made = httpx.post(
        f"{service.url}/variations",
        files={"image": picture_file("PNG")},
        data=fields,
        headers={"accept": kind.media_type},
        timeout=60,
    )
    file = tmp_path / f"made.{kind}"
    file.write_bytes(made.content)
    result = run("--like", file, "-o", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert result.output.replace("\n", "") == str(tmp_path / "again" / file.name)
    assert (tmp_path / "again" / file.name).read_bytes() == made.content


def test_what_generate_makes_with_a_fixed_bucket_is_repeated_to_the_byte(
    file: Path, tmp_path: Path
) -> None:
    result = run("--like", file, "-o", tmp_path / "again")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bucket": None}, "Made without a fixed bucket: the same but for rounding"),
        ({"dtype": "float16"}, "Made on cpu float16, and here on cpu float32: not the same"),
    ],
)
def test_what_may_be_another_in_the_last_bits_is_said(
    file: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    other = changed(file, **changes)
    assert says in run("--like", other, "-o", tmp_path / "again").stderr
    with Image.open(tmp_path / "again" / other.name) as again, Image.open(file) as first:
        assert np.abs(np.asarray(again).astype(int) - np.asarray(first)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "a/b", "revision": "v3"}, "made by a/b at v3, and this is"),
        ({"model": "a/b", "revision": "v3"}, "VARIATIONS_MODEL=a/b and VARIATIONS_REVISION=v3"),
        ({"embeddings": ()}, "VARIATIONS_PROVENANCE=minimal, and takes full"),
    ],
)
def test_what_cannot_be_repeated_is_explained(
    file: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    result = run("--like", changed(file, **changes), "-o", tmp_path / "again")
    assert result.exit_code == 1
    assert says in result.output
    assert not (tmp_path / "again").exists()


def test_a_size_that_is_not_offered_is_named(file: Path, tmp_path: Path) -> None:
    wide = replace(read_origin(file).parameters, width=128)
    result = run("--like", changed(file, parameters=wide), "-o", tmp_path / "again")
    assert result.exit_code == 1
    assert "VARIATIONS_SIZES=128x64" in result.output


def test_a_picture_of_elsewhere_is_explained(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture_file("PNG"))
    result = run("--like", photo)
    assert result.exit_code == 1
    assert "photo.png does not say how its picture was made" in result.output


def test_a_file_is_not_written_over(file: Path, made: bytes, tmp_path: Path) -> None:
    result = run("--like", file, "-o", tmp_path)
    assert result.exit_code == 1
    assert "choose another folder with --out" in result.output
    assert file.read_bytes() == made


def test_everything_is_taken_from_the_file(file: Path) -> None:
    result = run("--like", file, "--seed", 3)
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())  # in a box as wide as the terminal
    assert "leave out --seed" in said


def test_it_is_a_picture_or_what_to_repeat(file: Path) -> None:
    assert run().exit_code == 2
    assert run(file, "--like", file).exit_code == 2
