"""A real worker process, from its start to the end of its pipe."""

import signal
from dataclasses import replace
from pathlib import Path

from app.ipc.messages import (
    Done,
    Encoded,
    Failed,
    LoadFailed,
    Loading,
    PictureDone,
    Ready,
    StepStats,
)
from app.parameters import ModelConfig
from tests.support.checkpoints import enlarge, make_checkpoint
from tests.support.workers import LONGEST_WAIT, start_message, submit, worker_process


def test_a_worker_loads_says_what_it_takes_works_and_ends_with_its_pipe(
    tiny_checkpoint: Path,
) -> None:
    with worker_process() as worker:
        *loading, ready = worker.started(start_message(str(tiny_checkpoint)))
        assert all(isinstance(message, Loading) for message in loading)
        assert isinstance(ready, Ready)
        assert ready.model.id == tiny_checkpoint.name
        assert (ready.preprocessing.side, ready.preprocessing.antialias) == (32, False)
        assert ready.buckets == (1, 2, 3, 4)
        assert min(ready.encode_seconds, ready.decode_seconds) > 0

        worker.pipe.send(submit("mine"))
        heard = [type(message) for message in worker.heard_until(Done, Failed)]
        assert heard[0] is Encoded
        assert heard.count(StepStats) == 4
        assert heard[-2:] == [PictureDone, Done]

        worker.pipe.close()
        assert worker.process.wait(LONGEST_WAIT) == 0


def test_signals_that_end_the_api_process_do_not_end_its_worker(tiny_checkpoint: Path) -> None:
    with worker_process() as worker:
        worker.started(start_message(str(tiny_checkpoint)))
        for number in (signal.SIGINT, signal.SIGTERM):
            worker.process.send_signal(number)
        worker.pipe.send(submit("mine"))
        assert isinstance(worker.heard_until(Done, Failed)[-1], Done)


def test_a_checkpoint_that_cannot_be_served_is_said_to_be_final(tmp_path: Path) -> None:
    with worker_process() as worker:
        *_, failed = worker.started(start_message(str(tmp_path)))
        assert isinstance(failed, LoadFailed)
        assert failed.final
        assert "safety checker" in failed.message
        worker.pipe.close()
        assert worker.process.wait(LONGEST_WAIT) == 0


def test_a_checkpoint_whose_warm_up_fails_is_never_ready_and_that_is_final(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "loud")
    enlarge(folder, "unet", "conv_out.weight", 5e4)
    config = ModelConfig(str(folder), device="cpu", dtype="float16")
    with worker_process() as worker:
        *_, failed = worker.started(replace(start_message(), config=config))
        assert isinstance(failed, LoadFailed)
        assert failed.final
        assert "float16" in failed.message
        assert "VARIATIONS_DTYPE=float32" in failed.message
