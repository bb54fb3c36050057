"""``train variations`` on tiny models: what comes out, and that a stopped run goes on exactly."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from app.cli import app
from app.training.errors import CannotStart
from app.training.finetune import Report
from app.training.job import Job
from app.training.job import run as job_run
from app.training.recipe import Precision, Settings, Stage
from tests.support.reference import assert_diffusers_makes_the_same
from tests.support.starts import make_text_to_image

_SHORT = Settings(
    steps=4, stages=(Stage(1.0, 1e-3, 2),), batch_size=2, ema_decay=0.9, seed=3, min_snr=5.0
)


pytestmark = pytest.mark.usefixtures("one_thread")


def run(job: Job, settings: Settings, report: Report) -> bool:
    """The run, in what Accelerate takes for a process of its own."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return job_run(job, settings, report)


def _job(model: Path, data: Path, out: Path, **changes: object) -> Job:
    return Job(
        **{  # type: ignore[arg-type]
            "model": str(model),
            "data": str(data),
            "out": out,
            "cpu": True,
            "tracker": None,
            "save_every": 1,
            **changes,
        }
    )


def _weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "unet" / "diffusion_pytorch_model.safetensors")


def _losses(out: Path) -> list[float]:
    lines = (out / "training" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def _silent(_step: int, _loss: float) -> None:
    pass


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    one_thread: None,
    tiny_checkpoint: Path,
    pictures: Path,
) -> Path:
    """The folder of a run of :data:`_SHORT` that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(_job(tiny_checkpoint, pictures, out), _SHORT, _silent)
    return out


def test_the_command_makes_a_checkpoint_that_the_service_and_diffusers_load(
    tmp_path: Path, pictures: Path
) -> None:
    model, encoder = make_text_to_image(tmp_path)
    out = tmp_path / "mine"
    paths = ["--model", model, "--encoder", encoder, "--data", pictures, "--out", out]
    numbers = ["--steps", "2", "--batch-size", "2", "--learning-rate", "1e-3", "--seed", "1"]
    looks = ["--validation", pictures, "--look-every", "2", "--cpu"]

    result = CliRunner().invoke(app, ["train", "variations", *map(str, paths + numbers + looks)])

    assert result.exit_code == 0, result.output
    assert_diffusers_makes_the_same(out)
    card = (out / "README.md").read_text()
    assert "| steps | 2 |" in card
    assert "creativeml-openrail-m" in card
    assert list((out / "training" / "looks").glob("*.png"))
    assert list((out / "training" / "logs").rglob("*tfevents*"))


@pytest.mark.parametrize("stop", [signal.SIGINT, None], ids=["interrupted", "killed"])
def test_a_stopped_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
    tiny_checkpoint: Path,
    pictures: Path,
    whole: Path,
    stop: signal.Signals | None,
) -> None:
    def stop_after_two(step: int, _loss: float) -> None:
        if step == 2:
            if stop is None:
                raise KeyboardInterrupt  # before the state of this step is written
            os.kill(os.getpid(), stop)

    stopped = _job(tiny_checkpoint, pictures, tmp_path / "parts")
    if stop is None:
        with pytest.raises(KeyboardInterrupt):
            run(stopped, _SHORT, stop_after_two)
    else:
        assert not run(stopped, _SHORT, stop_after_two)
    assert run(_job(tiny_checkpoint, pictures, tmp_path / "parts", resume=True), _SHORT, _silent)

    assert _losses(tmp_path / "parts") == _losses(whole)
    expected, found = _weights(whole), _weights(tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_accumulated_batches_are_one_larger_batch(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path, whole: Path
) -> None:
    halves = replace(_SHORT, batch_size=1, accumulation=2)

    assert run(_job(tiny_checkpoint, pictures, tmp_path / "out"), halves, _silent)

    assert _losses(tmp_path / "out") == pytest.approx(_losses(whole), rel=1e-4)


def test_pictures_that_cannot_be_read_are_counted_and_change_no_weights(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    whole = (pictures / "000.png").read_bytes()
    (data / "cut.png").write_bytes(whole[: len(whole) // 2])

    assert run(_job(tiny_checkpoint, data, tmp_path / "out"), _SHORT, _silent)

    lines = (tmp_path / "out" / "training" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["unreadable"] for line in lines] == [2] * 4


def test_a_run_is_not_written_over_nor_resumed_as_another(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path
) -> None:
    job = _job(tiny_checkpoint, pictures, tmp_path / "out")
    assert run(job, replace(_SHORT, steps=1), _silent)

    with pytest.raises(CannotStart, match="go on with --resume"):
        run(job, _SHORT, _silent)
    again = replace(job, resume=True)
    with pytest.raises(CannotStart, match="seed was 3"):
        run(again, replace(_SHORT, seed=4), _silent)
    assert run(again, _SHORT, _silent)
    assert len(_losses(tmp_path / "out")) == 4


def test_parts_that_are_not_trained_come_out_as_they_were_in_half_precision_too(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path
) -> None:
    settings = replace(_SHORT, steps=1, mixed_precision=Precision.BF16)

    job = _job(tiny_checkpoint, pictures, tmp_path / "out", validation=str(pictures))
    assert run(replace(job, look_every=1), settings, _silent)

    for name in ("vae/diffusion_pytorch_model", "image_encoder/model", "safety_checker/model"):
        before, after = (
            load_file(folder / f"{name}.safetensors")
            for folder in (tiny_checkpoint, tmp_path / "out")
        )
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_other_files_are_not_written_over(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path
) -> None:
    with pytest.raises(CannotStart, match="has other files in it"):
        run(_job(tiny_checkpoint, pictures, pictures), _SHORT, _silent)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "nowhere"}, "there is no 'nowhere' \\(--data\\)"),
        ({"model": "nowhere"}, "there is no folder 'nowhere'"),
        ({"resolution": 60}, "a multiple of 8 pixels for this model: not 60, but 64"),
    ],
)
def test_a_wrong_start_is_told_before_anything_is_written(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path, changes: dict[str, object], words: str
) -> None:
    job = _job(tiny_checkpoint, pictures, tmp_path / "out")

    with pytest.raises(CannotStart, match=words):
        run(replace(job, **changes), _SHORT, _silent)  # type: ignore[arg-type]

    assert not (tmp_path / "out").exists()


def test_the_first_stage_of_version_2_trains_cross_attention_alone(
    tmp_path: Path, tiny_checkpoint: Path, pictures: Path
) -> None:
    stages = (Stage(0.5, 1e-3, 1, only_cross_attention=True), Stage(0.5, 1e-3, 1))
    settings = replace(_SHORT, steps=2, stages=stages, ema_decay=None)
    before, out = _weights(tiny_checkpoint), tmp_path / "out"
    after_first: dict[str, Tensor] = {}

    def look_at_the_first_stage(step: int, _loss: float) -> None:
        if step == 2:  # whose state is not written yet
            after_first.update(load_file(out / "training" / "state-00000001" / "model.safetensors"))

    assert run(_job(tiny_checkpoint, pictures, out), settings, look_at_the_first_stage)

    changed = [
        {key for key, value in weights.items() if (value != before[key]).any()}
        for weights in (after_first, _weights(out))
    ]
    assert changed[0]
    assert all("attn2" in key for key in changed[0])
    assert changed[1] == set(before)
