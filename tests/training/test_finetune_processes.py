"""``train variations`` in processes of its own: killed, on two of them, and at full size."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.training.sources import open_source
from app.training.world import Picture
from tests.support.checkpoints import make_checkpoint
from tests.support.img2dataset import install, make_shards
from tests.support.shards import jpeg, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
_NUMBERS = ("--learning-rate", "1e-3", "--warmup", "2", "--seed", "3", "--save-every", "3")
_TRAIN = ("-m", "app", "train", "variations", "--cpu", "--tracker", "none", *_NUMBERS)


def _start(
    *arguments: object, launcher: tuple[str, ...] = (), new_group: bool = False
) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, *_TRAIN, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=new_group)


def _losses(out: Path) -> list[float]:
    log = out / "training" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture
def shards(tmp_path: Path, drawings: list[Picture]) -> Path:
    files = [jpeg(drawing) for drawing in drawings]
    return write_shards(tmp_path / "shards", files, [{} for _ in files])


def test_a_run_killed_at_a_random_step_goes_on_to_the_same_weights(
    tmp_path: Path, tiny_checkpoint: Path, shards: Path
) -> None:
    """To the bit, with loading processes, on one machine."""
    steps, stop = 40, random.randint(4, 30)
    same = ("--model", tiny_checkpoint, "--data", shards, "--steps", steps, "--workers", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _start(*same, "--out", whole).wait() == 0

    killed = _start(*same, "--out", parts)
    while len(_losses(parts)) < stop and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() != 0, f"it was to be killed at step {stop}"
    assert _start(*same, "--out", parts, "--resume").wait() == 0

    assert _losses(parts) == _losses(whole), f"killed at step {stop}"
    first, second = (
        load_file(out / "unet" / "diffusion_pytorch_model.safetensors") for out in (whole, parts)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupt_of_all_its_processes_is_saved_and_told(
    tmp_path: Path, tiny_checkpoint: Path, shards: Path
) -> None:
    out = tmp_path / "out"
    same = ("--model", tiny_checkpoint, "--data", shards, "--out", out, "--workers", 2)

    running = _start(*same, "--steps", 100_000, new_group=True)
    while len(_losses(out)) < 2 and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)

    assert running.wait() == 130
    [state] = (out / "training").glob("state-*")
    assert int(state.name.removeprefix("state-")) == len(_losses(out))


def test_two_processes_have_the_losses_of_one_with_twice_the_batch(
    tmp_path: Path, tiny_checkpoint: Path, shards: Path
) -> None:
    same = ("--model", tiny_checkpoint, "--data", shards, "--steps", 20)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
    one, two = tmp_path / "one", tmp_path / "two"

    assert _start(*same, "--out", one, "--batch-size", 4).wait() == 0
    assert _start(*same, "--out", two, "--batch-size", 2, launcher=launcher).wait() == 0

    assert len(_losses(one)) == 20
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-4)


def test_the_full_size_architecture_takes_two_steps_in_this_memory(
    tmp_path: Path, shards: Path
) -> None:
    """17 GB in bf16 with gradient checkpointing and without averaged weights."""
    model = make_checkpoint(tmp_path / "sd1", kind="sd1", safety_checker=False)
    options = ("--batch-size", 1, "--ema-decay", 0, "--mixed-precision", "bf16")
    save = ("--save-every", 100, "--gradient-checkpointing", "--resolution", 512)
    data = ("--model", model, "--data", shards, "--out", tmp_path / "out", "--steps", 2)

    assert _start(*data, *options, *save).wait() == 0

    assert len(_losses(tmp_path / "out")) == 2


def test_the_real_img2dataset_writes_shards_that_are_read(tmp_path: Path, pictures: Path) -> None:
    scores = {"AESTHETIC_SCORE": [5.0 + i / 10 for i in range(12)], "punsafe": [0.1] * 12}
    program = install(tmp_path / "venv")

    out = make_shards(program, pictures, tmp_path / "shards", scores, side=96, each=5)

    raws = list(open_source(str(out)).ordered())
    assert len(list(out.glob("*.tar"))) == 3
    assert len(raws) == 12
    assert {raw.facts["punsafe"] for raw in raws} <= {0.1, "0.1"}
    assert all(raw.facts["status"] == "success" for raw in raws)
