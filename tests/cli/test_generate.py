"""The command ``generate``, run as its users run it but for the process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from app.cli import app
from app.parameters import MAX_SEED
from app.pictures.provenance import read_origin
from app.pipeline import Pipeline, Sample
from app.pipeline.samples import Step
from tests.support.checkpoints import configure, make_checkpoint
from tests.support.pictures import quarters
from tests.support.processes import ServiceProcess


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
    assert read_origin(written[1]).parameters.seed == 6


def test_generate_gives_the_same_picture_for_the_same_seed(photo: Path, tmp_path: Path) -> None:
    for folder, seed, n in (("a", 5, 2), ("b", 6, 1)):
        run("generate", photo, "-n", n, "--seed", seed, "--steps", 2, "-o", tmp_path / folder)
    first, second = (values(tmp_path / folder / "photo-6.png") for folder in "ab")
    assert np.abs(first - second).max() <= 1


def test_a_mixture_comes_out_as_a_service_makes_it(
    photo: Path, running: ServiceProcess, tmp_path: Path
) -> None:
    other, unlike = tmp_path / "other.png", tmp_path / "unlike.png"
    Image.fromarray(quarters()).save(other)
    Image.linear_gradient("L").convert("RGB").save(unlike)
    asked = (
        "generate", photo, other, "--mix", "rows", "--weight", 3, "--weight", 1, "-n", 1,
        "--negative", unlike, "--strength", 0.7, "--guidance", 3, "--steps", 5, "--seed", 5,
    )  # fmt: skip
    for folder, more in (("here", ()), ("there", ("--url", running.url))):
        result = run(*asked, *more, "-o", tmp_path / folder)
        assert result.exit_code == 0, result.output
    first, second = (tmp_path / folder / "photo+other-5.png" for folder in ("here", "there"))
    assert np.abs(values(first) - values(second)).max() <= 1
    made = read_origin(first).parameters
    assert (made.weight, made.strength, made.negative_image) == ((0.75, 0.25), 0.7, True)
    assert len(read_origin(first).embeddings) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--mix", "rows"), "2 to 4 pictures can be mixed, not 1"), (("--weight", 2), "see --mix")],
)
def test_a_mixture_takes_several_pictures(
    photo: Path, options: tuple[object, ...], words: str
) -> None:
    result = run("generate", photo, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


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
    assert result.exit_code == 2
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


def test_several_inputs_share_steps_and_come_out_as_alone(
    photo: Path, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.png").write_bytes(png)
    shared = []
    step = Pipeline.step

    def counted(pipeline: Pipeline, samples: list[Sample], bucket: int | None = None) -> Step:
        shared.append(len(samples))
        return step(pipeline, samples, bucket)

    monkeypatch.setattr(Pipeline, "step", counted)
    options = ("-n", 2, "--seed", 5, "--steps", 2)
    together = run("generate", photo, tmp_path / "other.png", *options, "-o", tmp_path / "a")
    assert together.exit_code == 0, together.output
    assert max(shared) == 4
    run("generate", photo, *options, "-o", tmp_path / "b")
    for name in ("photo-5.png", "photo-6.png"):
        first, second = (values(tmp_path / folder / name) for folder in "ab")
        assert np.abs(first - second).max() <= 1


def test_one_unreadable_file_does_not_stop_the_others(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = run("generate", tmp_path, "-n", 1, "--steps", 1, "--seed", 1, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{tmp_path / 'broken.png'}: The file is not a picture" in result.stderr
    assert result.stdout.split() == [str(tmp_path / "out" / "photo-1.png")]


def test_a_line_of_json_says_all_of_a_variation(photo: Path, tmp_path: Path) -> None:
    options = ("-n", 2, "--steps", 1, "--seed", 4, "--format", "webp", "--json")
    result = run("generate", photo, *options, "-o", tmp_path / "out")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["input"] == str(photo)
    assert Path(first["file"]) == tmp_path / "out" / "photo-4.webp"
    assert (first["seed"], second["seed"], first["flagged"]) == (4, 5, False)
    assert first["parameters"]["num_inference_steps"] == 1
    assert first["parameters"]["output_format"] == "webp"
    with Image.open(second["file"]) as picture:
        assert picture.format == "WEBP"


def test_a_contact_sheet_shows_inputs_beside_their_variations(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    sheet = tmp_path / "sheets" / "all.png"
    options = ("-n", 2, "--steps", 1, "--sheet", sheet, "-o", tmp_path / "out")
    run("generate", tmp_path / "broken.png", photo, *options)
    whole = values(sheet)
    rows, columns = whole.shape[0] // 180, whole.shape[1] // 160
    assert (rows, columns) == (2, 3)
    centre = values(photo)[128, 128]
    assert np.abs(whole[188 + 8 + 80, 8 + 80] - centre).max() <= 8


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--sheet", "a.jpg"), "A PNG"), (("--url", "localhost"), "http://127"), (("-n", 9), "n")],
)
def test_a_wrong_option_is_bad_usage(options: tuple[object, ...], says: str, photo: Path) -> None:
    result = run("generate", photo, *options)
    assert result.exit_code == 2
    assert says in result.output


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
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
