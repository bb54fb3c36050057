"""``train convert``: a text-to-image checkpoint becomes an image-variation one, or is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.support.checkpoints import configure
from tests.support.reference import assert_diffusers_makes_the_same
from tests.support.starts import change_index, make_text_to_image

Made = tuple[Path, Path]


def _convert(model: Path, encoder: Path, out: Path) -> tuple[int, str]:
    arguments = ["--model", str(model), "--encoder", str(encoder), "--out", str(out)]
    result = CliRunner().invoke(app, ["train", "convert", *arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])
def test_it_becomes_a_checkpoint_that_the_service_and_diffusers_load(
    tmp_path: Path, safetensors: bool
) -> None:
    model, encoder = make_text_to_image(tmp_path, safetensors=safetensors)
    out = tmp_path / "out"

    assert _convert(model, encoder, out) == (0, f"wrote {out}")

    assert_diffusers_makes_the_same(out)
    assert "not trained yet" in (out / "README.md").read_text()


def test_a_model_without_a_safety_checker_stays_without(tmp_path: Path) -> None:
    model, encoder = make_text_to_image(tmp_path, safety_checker=False)

    assert _convert(model, encoder, tmp_path / "out")[0] == 0

    assert not (tmp_path / "out" / "safety_checker").exists()


def _sd2(model: Path, _encoder: Path) -> None:
    configure(model, "unet", cross_attention_dim=1024)


def _sdxl(model: Path, _encoder: Path) -> None:
    change_index(model, _class_name="StableDiffusionXLPipeline")


def _sdxl_unet(model: Path, _encoder: Path) -> None:
    configure(model, "unet", addition_embed_type="text_time")


def _inpainting(model: Path, _encoder: Path) -> None:
    configure(model, "unet", in_channels=9)


def _another_width(_model: Path, encoder: Path) -> None:
    (encoder / "model.safetensors").unlink()


def _variations(model: Path, encoder: Path) -> None:
    encoder.rename(model / "image_encoder")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_sd2, "is Stable Diffusion 2"),
        (_sdxl, "is Stable Diffusion XL"),
        (_sdxl_unet, "is Stable Diffusion XL"),
        (_inpainting, "is an inpainting model"),
        (_another_width, "weights in image_encoder"),
        (_variations, "leave out --encoder"),
    ],
)
def test_a_wrong_start_is_refused_with_what_is_wrong_and_what_would_be_right(
    tmp_path: Path, change: Callable[[Path, Path], None], words: str
) -> None:
    model, encoder = make_text_to_image(tmp_path)
    change(model, encoder)

    code, said = _convert(model, encoder, tmp_path / "out")

    assert code == 2
    assert words in said
    assert not (tmp_path / "out").exists()


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sd-v1-4.ckpt"
    file.write_bytes(b"weights")

    code, said = _convert(file, tmp_path, tmp_path / "out")

    assert code == 2
    assert "a folder in diffusers' format is needed" in said


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    model, encoder = make_text_to_image(tmp_path)

    code, said = _convert(model, encoder, model)

    assert code == 2
    assert "is not empty" in said
