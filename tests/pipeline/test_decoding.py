"""Finished latents become pictures, flagged ones none, broken ones an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.pipeline import Decoded, Pipeline, decoding
from app.pipeline.checkpoint import Parts, load_parts
from app.pipeline.devices import Dtypes
from app.pipeline.safety import Safety
from app.pipeline.solvers import Solvers
from tests.support.checkpoints import flag_everything, make_checkpoint
from tests.support.pipelines import condition_of, draw


@pytest.fixture
def parts(tiny_folder: Path) -> Parts:
    return load_parts(tiny_folder, Dtypes(torch.float32, torch.float32), safety_checker=True)


def decode(parts: Parts, latents: list[torch.Tensor]) -> list[Decoded]:
    safety = Safety(parts.safety_checker, parts.feature_extractor)
    return decoding.decode(latents, parts.vae, safety)


def latents(n: int) -> list[torch.Tensor]:
    return list(torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_pictures_are_8_bit_rgb(parts: Parts) -> None:
    for decoded in decode(parts, latents(3)):
        assert decoded.picture is not None
        assert decoded.picture.shape == (64, 64, 3)
        assert decoded.picture.dtype == np.uint8
        assert decoded.picture.std() > 5
        assert (decoded.flagged, decoded.error) == (False, None)


def test_one_broken_sample_fails_alone(parts: Parts) -> None:
    broken = latents(3)
    broken[1][0, 3, 3] = float("nan")
    first, second, third = decode(parts, broken)
    assert second.picture is None
    assert not second.flagged
    assert second.error is not None
    assert "another seed" in second.error
    assert first.picture is not None
    assert third.picture is not None


def test_infinite_latents_are_an_error_too(parts: Parts) -> None:
    (decoded,) = decode(parts, [torch.full((4, 16, 16), float("inf"))])
    assert decoded == Decoded(None, error=decoded.error)
    assert decoded.error


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_a_decoder_that_overflows_gives_an_error_not_black_or_white(
    parts: Parts, value: float
) -> None:
    vae: Any = parts.vae
    vae.decoder.conv_out.bias.fill_(value)
    (decoded,) = decode(parts, latents(1))
    assert decoded.picture is None
    assert decoded.error


def test_a_picture_that_leaves_float16_is_decoded_in_float32_and_no_other(
    tiny_folder: Path,
) -> None:
    dtypes = Dtypes(torch.float32, torch.float16)
    parts = load_parts(tiny_folder, dtypes, safety_checker=True)
    vae: Any = parts.vae
    weights = {name: weight.clone() for name, weight in vae.state_dict().items()}
    [first, far, last] = latents(3)
    far = far * 5e4  # some of it is past float16's 65504
    made = decode(parts, [first, far, last])
    assert vae.dtype == torch.float16
    assert all(torch.equal(vae.state_dict()[name], weights[name]) for name in weights)
    alone = decode(parts, [first, last])
    parts.vae.to(torch.float32)
    [wide] = decode(parts, [far])
    for ours, expected in zip(made, (alone[0], wide, alone[1]), strict=True):
        assert ours.picture is not None
        assert expected.picture is not None
        assert np.array_equal(ours.picture, expected.picture)


def test_what_float32_cannot_decode_either_is_not_blamed_on_the_denoising(
    tiny_folder: Path,
) -> None:
    parts = load_parts(tiny_folder, Dtypes(torch.float32, torch.float16), safety_checker=True)
    parts.vae.decoder.conv_out.bias.fill_(float("inf"))
    (decoded,) = decode(parts, latents(1))
    assert decoded.picture is None
    assert decoded.error is not None
    assert "while decoding" in decoded.error
    assert parts.vae.dtype == torch.float16


def test_broken_weights_of_the_unet_end_in_an_error_not_in_black(
    parts: Parts, tiny: Pipeline
) -> None:
    unet: Any = parts.unet
    unet.conv_out.weight.fill_(float("nan"))
    solvers = Solvers(parts.scheduler_config, 2)
    pipeline = Pipeline(tiny.model, parts, solvers, torch.device("cpu"), tiny.preprocessing)
    parameters = tiny.model.defaults(n=2, num_inference_steps=2)
    for decoded in pipeline.generate(condition_of(pipeline, draw(1), parameters), parameters):
        assert decoded.picture is None
        assert decoded.error


def test_a_checker_whose_numbers_are_not_finite_lets_nothing_pass(parts: Parts) -> None:
    checker: Any = parts.safety_checker
    checker.visual_projection.weight[0, 0] = float("nan")
    for decoded in decode(parts, latents(2)):
        assert decoded.picture is None
        assert not decoded.flagged
        assert decoded.error is not None
        assert "safety checker" in decoded.error


def test_flagged_pictures_are_withheld(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "strict")
    flag_everything(folder)
    parts = load_parts(folder, Dtypes(torch.float32, torch.float32), safety_checker=True)
    assert decode(parts, latents(2)) == [Decoded(None, flagged=True)] * 2


def test_without_a_checker_nothing_is_flagged(parts: Parts) -> None:
    assert all(d.picture is not None for d in decoding.decode(latents(2), parts.vae, None))


def test_the_checker_judges_as_the_reference_has_it_judge(parts: Parts) -> None:
    """Thresholds set between the scores of two pictures: the verdicts differ, and agree."""
    checker: Any = parts.safety_checker
    pictures = [draw(i)[:48, :48].copy() for i in range(8)]
    images = [Image.fromarray(picture) for picture in pictures]
    pixels = parts.feature_extractor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        pooled = checker.vision_model(pixels)[1]
        embedding = torch.nn.functional.normalize(checker.visual_projection(pooled))
        scores = embedding @ torch.nn.functional.normalize(checker.concept_embeds).T
    order = scores[:, 0].sort().values
    checker.concept_embeds_weights[0] = float((order[3] + order[4]) / 2)
    verdicts = Safety(checker, parts.feature_extractor).check(pictures)
    _, flags = checker(clip_input=pixels, images=[np.zeros(1)] * 8)
    assert [verdict.flagged for verdict in verdicts] == flags
    assert set(flags) == {False, True}
