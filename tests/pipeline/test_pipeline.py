"""The pipeline as its users meet it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.errors import CheckpointError, DeviceUnavailable, GenerationFailed, InvalidParameter
from app.parameters import (
    Condition,
    ConditionRow,
    EncoderInput,
    Fit,
    ModelConfig,
    Parameters,
    Scheduler,
)
from app.pipeline import Pipeline, devices
from app.pipeline.checkpoint import load_parts
from app.pipeline.known import known
from tests.support.checkpoints import configure, enlarge, make_checkpoint
from tests.support.pipelines import condition_of, draw, start
from tests.support.reference import Reference
from tests.support.requests import encoder_input

PARAMETERS = Parameters(2, 3.0, 4, Scheduler.PNDM, 5, 64, 64, Fit.SQUASH)


def load(folder: Path, **options: object) -> Pipeline:
    values: dict[str, object] = {"device": "cpu", "dtype": "float32", **options}
    return Pipeline.load(ModelConfig(str(folder), **values))  # type: ignore[arg-type]


def generate(pipeline: Pipeline) -> list[NDArray[np.int16]]:
    """The pictures of :data:`PARAMETERS`."""
    decoded = pipeline.generate(condition_of(pipeline, draw(1), PARAMETERS), PARAMETERS)
    return [one.picture.astype(np.int16) for one in decoded if one.picture is not None]


def test_generate_makes_n_pictures_and_tells_how_far_it_is(tiny: Pipeline) -> None:
    told: list[tuple[int, int]] = []
    condition = condition_of(tiny, draw(1), PARAMETERS)
    decoded = tiny.generate(condition, PARAMETERS, lambda *progress: told.append(progress))
    assert told == [(i, 5) for i in range(1, 6)]
    first, second = (d.picture for d in decoded)
    assert first is not None
    assert second is not None
    assert (first != second).mean() > 0.5


def test_variation_i_is_the_picture_of_seed_plus_i(tiny: Pipeline) -> None:
    [_, later] = start(tiny, draw(1), PARAMETERS)
    [first] = start(tiny, draw(1), replace(PARAMETERS, n=1, seed=PARAMETERS.seed + 1))
    assert torch.equal(later.latents, first.latents)


def test_its_preprocessing_is_what_the_encoder_takes(tiny: Pipeline, reference: Reference) -> None:
    assert (tiny.preprocessing.side, tiny.preprocessing.antialias) == (32, False)
    pixels = tiny.preprocessing(draw(1), Fit.CROP)
    assert np.array_equal(pixels, reference.pixels(draw(1), Fit.CROP)[0].cpu().numpy())


def test_an_embedding_is_the_references(tiny: Pipeline, reference: Reference) -> None:
    with torch.no_grad():
        pixels = reference.pixels(draw(1), Fit.CROP)
        expected = reference.pipeline.image_encoder(pixels).image_embeds[0].cpu().numpy()
    [embedding] = tiny.encode(tiny.preprocessing(draw(1), Fit.CROP))
    assert embedding.dtype == np.float32
    assert embedding.shape == (24,)
    assert np.abs(embedding - expected).max() < 1e-5


def test_an_embedding_that_is_not_finite_fails(tiny: Pipeline) -> None:
    with pytest.raises(GenerationFailed, match="finite"):
        tiny.encode(np.full((3, 32, 32), np.nan, np.float32))


def test_guidance_is_two_rows_whose_weights_sum_to_one(tiny: Pipeline) -> None:
    picture, zero = tiny.condition(Condition.guided(encoder_input(), 3.0))
    assert (picture.weight, zero.weight) == (3.0, -2.0)
    assert picture.condition.shape == zero.condition.shape
    assert not torch.equal(picture.condition, zero.condition)


def test_without_guidance_there_is_one_row(tiny: Pipeline) -> None:
    [alone] = tiny.condition(Condition.guided(encoder_input(), 1.0))
    [guided, _] = tiny.condition(Condition.guided(encoder_input(), 3.0))
    assert alone.weight == 1.0
    assert torch.equal(alone.condition, guided.condition)


def test_each_distinct_picture_is_encoded_once(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[EncoderInput] = []
    encode = tiny.encode

    def counting(*pixels: EncoderInput) -> NDArray[np.float32]:
        encoded.extend(pixels)
        return encode(*pixels)

    monkeypatch.setattr(tiny, "encode", counting)
    first, second = encoder_input(1), encoder_input(2)
    one, both = ((first, 1.0),), ((first, 0.5), (second, 0.5))
    wanted = ((one, 2.0), (both, 1.0), ((), -1.0), (one, -1.0))
    rows = tiny.condition(Condition(tuple(ConditionRow(*row) for row in wanted)))
    assert list(map(id, encoded)) == [id(first), id(second)]
    assert [row.weight for row in rows] == [2.0, 1.0, -1.0, -1.0]
    assert rows[0].condition is rows[3].condition
    assert len({id(row.condition) for row in rows}) == 3


def test_pictures_encoded_together_have_the_rows_of_each_alone(tiny: Pipeline) -> None:
    wanted = [Condition.guided(encoder_input(seed), 1.0 + seed) for seed in range(3)]
    for condition, together in zip(wanted, tiny.conditions(wanted), strict=True):
        for row, alone in zip(together, tiny.condition(condition), strict=True):
            assert row.weight == alone.weight
            torch.testing.assert_close(row.condition, alone.condition)


def test_a_row_tells_its_embedding_which_may_stand_for_the_picture(tiny: Pipeline) -> None:
    picture, zero = tiny.condition(Condition.guided(encoder_input(), 3.0))
    [embedding] = picture.embeddings
    assert zero.embeddings == ()
    again, _ = tiny.condition(Condition.guided(embedding, 3.0))
    assert torch.equal(again.condition, picture.condition)


def test_an_embedding_of_another_encoder_fails_its_request(tiny: Pipeline) -> None:
    foreign = Condition.guided(np.zeros(7, np.float32), 1.0)
    with pytest.raises(GenerationFailed, match="has 7 numbers, where this model takes 24"):
        tiny.condition(foreign)


def test_the_zero_embedding_is_folded_once_for_all_requests(tiny: Pipeline) -> None:
    nothing = Condition((ConditionRow((), 1.0),))
    [first], [second] = tiny.condition(nothing), tiny.condition(nothing)
    assert first.condition is second.condition


def test_a_picture_that_cannot_be_embedded_fails_its_request(tiny: Pipeline) -> None:
    with pytest.raises(GenerationFailed, match="not finite"):
        tiny.condition(Condition.guided(np.full((3, 32, 32), np.inf, np.float32), 3.0))


def test_model_info_says_what_was_loaded(tiny_folder: Path) -> None:
    model = load(tiny_folder).model
    assert model.id == tiny_folder.name
    assert model.sizes == ((64, 64),)
    assert (model.device, model.dtype, model.safety_checker) == ("cpu", "float32", True)
    assert (model.guidance_scale, model.num_inference_steps) == (3.0, 50)
    assert (model.scheduler, model.fit) == (Scheduler.PNDM, Fit.SQUASH)
    assert not load(tiny_folder, safety_checker=False).model.safety_checker


def test_model_info_lists_the_solvers_that_the_checkpoint_allows(
    tiny: Pipeline, tmp_path: Path
) -> None:
    assert tiny.model.schedulers == tuple(Scheduler)
    folder = make_checkpoint(tmp_path / "mine")
    configure(
        folder, "scheduler", _class_name="EulerAncestralDiscreteScheduler", skip_prk_steps=None
    )
    model = load(folder).model
    assert Scheduler.PNDM not in model.schedulers
    assert model.scheduler == model.schedulers[0] == Scheduler.DDIM


def test_a_default_of_the_checkpoints_own_that_cannot_be_gives_way(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    configure(folder, "scheduler", prediction_type="v_prediction")
    (folder / "variations.json").write_text('{"scheduler": "lms", "num_inference_steps": 20}')
    model = load(folder).model
    assert Scheduler.LMS not in model.schedulers
    assert model.scheduler == Scheduler.PNDM


def test_a_checkpoint_whose_scheduler_suits_no_solver_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    configure(folder, "scheduler", beta_schedule="crooked")
    with pytest.raises(CheckpointError, match=r"no solver suits .* crooked"):
        load(folder)


def test_steps_that_a_solver_cannot_make_are_refused_before_the_first_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    configure(folder, "scheduler", num_train_timesteps=60)
    pipeline = load(folder)
    rows = pipeline.condition(Condition.guided(encoder_input(), 3.0))
    for steps, scheduler in ((100, Scheduler.DDIM), (61, Scheduler.DEIS)):
        with pytest.raises(InvalidParameter, match=f"cannot make {steps} steps") as refusal:
            pipeline.start(
                rows, pipeline.model.defaults(num_inference_steps=steps, scheduler=scheduler), 0
            )
        assert refusal.value.field == "num_inference_steps"


def test_a_checkpoint_may_say_how_it_was_trained(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    (folder / "variations.json").write_text('{"antialias": true, "num_inference_steps": 7}')
    model = Pipeline.load(ModelConfig(str(folder), revision="v1.0")).model
    assert (model.id, model.revision, model.num_inference_steps) == ("mine", None, 7)


def test_what_it_says_must_make_sense(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "mine")
    (folder / "variations.json").write_text('{"num_inference_steps": "many"}')
    with pytest.raises(CheckpointError, match="num_inference_steps"):
        Pipeline.load(ModelConfig(str(folder)))


def test_the_published_checkpoint_is_known(tmp_path: Path) -> None:
    settings = known("lambdalabs/sd-image-variations-diffusers", tmp_path)
    assert (settings.revision, settings.antialias) == ("v2.0", False)


@pytest.mark.parametrize(("size", "fitting"), [((60, 64), "64x64"), ((64, 4), "64x8")])
def test_a_size_that_the_unet_cannot_make_is_refused_and_another_named(
    tiny_folder: Path, size: tuple[int, int], fitting: str
) -> None:
    with pytest.raises(CheckpointError, match=f"multiples of 8 .* {fitting}"):
        load(tiny_folder, sizes=(size,))


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "nothing", "a/b/c"])
def test_a_model_that_is_nowhere_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        Pipeline.load(ModelConfig(model))


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(tiny_folder: Path, device: str) -> None:
    with pytest.raises(CheckpointError, match=device):
        Pipeline.load(ModelConfig(str(tiny_folder), device=device))


def test_a_dtype_that_is_none_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="int8"):
        Pipeline.load(ModelConfig(str(tiny_folder), dtype="int8"))


@pytest.mark.parametrize("slicing", ["auto", "max"])
def test_slicing_changes_memory_not_pictures(
    tiny: Pipeline, tiny_folder: Path, slicing: str
) -> None:
    sliced = load(tiny_folder, attention_slicing=slicing, vae_slicing=True)
    for ours, theirs in zip(generate(sliced), generate(tiny), strict=True):
        assert np.abs(ours - theirs).max() <= 1


def test_in_bfloat16_pictures_stay_alike(tiny: Pipeline, tiny_folder: Path) -> None:
    rounded = load(tiny_folder, dtype="bfloat16")
    assert rounded.model.dtype == "bfloat16"
    for ours, theirs in zip(generate(rounded), generate(tiny), strict=True):
        assert np.abs(ours - theirs).mean() < 3


@pytest.mark.parametrize(
    ("part", "weight", "dtype", "largest"),
    [
        ("unet", "conv_out.weight", "float16", 1e5),
        ("vae", "decoder.conv_out.weight", "float16", 1e5),
        ("image_encoder", "visual_projection.weight", "float16", 1e5),
        ("unet", "conv_out.weight", "bfloat16", 3.4e38),
    ],
)
def test_weights_that_the_number_type_does_not_hold_are_refused_with_one_that_does(
    part: str, weight: str, dtype: str, largest: float, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "loud")
    enlarge(folder, part, weight, largest)
    said = f"{part} are not finite, {weight} for one in {dtype}; VARIATIONS_DTYPE=float32"
    with pytest.raises(CheckpointError, match=said):
        load(folder, dtype=dtype)
    assert load(folder).model.dtype == "float32"


def test_in_bfloat16_only_the_unet_is_rounded(tiny_folder: Path) -> None:
    dtypes = devices.choose_dtypes("bfloat16", torch.device("cpu"), None)
    parts = load_parts(tiny_folder, dtypes, safety_checker=True)
    assert parts.unet.dtype == torch.bfloat16
    for part in (parts.vae, parts.image_encoder, parts.safety_checker):
        assert part is not None
        assert part.dtype == torch.float32


def test_a_device_that_there_cannot_be_is_final_and_one_that_fails_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CheckpointError, match="'abacus' cannot be used"):
        devices.choose_device("abacus")
    if torch.version.cuda is None and torch.version.hip is None:
        with pytest.raises(CheckpointError, match="'cuda' cannot be used"):
            devices.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceUnavailable, match="'cuda:99' cannot be used"):
        devices.choose_device("cuda:99")


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_the_gpu_where_torch_has_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    current: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "empty", lambda *_, device: tried.append(device))
    for device in ("auto", "cuda:1"):
        assert devices.choose_device(device) == tried[-1]
    assert tried == [torch.device("cuda" if there else "cpu"), torch.device("cuda:1")]
    assert current == [torch.device("cuda:1")]


def test_a_torch_for_gpus_that_finds_none_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, version in (("cuda", "13.0"), ("hip", "7.0")):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.version, name, version)
            assert devices.choose_device("auto").type == "cpu"
        assert "finds none: running on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [({"avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "bfloat16"), (set(), "float32")],
)
def test_auto_takes_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: str
) -> None:
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    cpu = torch.device("cpu")
    assert devices.choose_dtypes("auto", cpu, None).unet == getattr(torch, dtype)
    assert devices.choose_dtypes("auto", cpu, "float32").unet == torch.float32
    assert devices.choose_dtypes("auto", torch.device("cuda"), "float32").unet == torch.float16
