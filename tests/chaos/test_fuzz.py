"""Broken files and bombs: a picture, or an error that says what is wrong; nothing else happens."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.errors import BadInput
from app.pictures.decode import decode
from tests.support.bombs import BOMBS
from tests.support.chaos import Serve
from tests.support.figures import record
from tests.support.fuzzing import mutated, seeds

MOST_PIXELS = 50_000_000


def test_the_good_files_are_good() -> None:
    for data in seeds():
        assert decode(data, max_pixels=MOST_PIXELS).shape == (24, 32, 3)


def test_a_broken_file_is_a_picture_or_bad_input(capfd: pytest.CaptureFixture[str]) -> None:
    refused = 0
    for data in mutated(500, seed=0):
        try:
            assert decode(data, max_pixels=MOST_PIXELS).ndim == 3
        except BadInput:
            refused += 1
    assert 100 < refused < 500
    assert capfd.readouterr().err == ""


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_thousands_of_broken_files_and_every_bomb_over_http(serve: Serve) -> None:
    wish = {"n": "1", "num_inference_steps": "1"}
    bombs = [make(20 * 2**20 - 2000) for make in BOMBS.values()]
    with (
        serve(log_format="json") as victim,
        httpx.Client(base_url=victim.url, timeout=300) as client,
    ):
        worker = victim.service.worker_pid

        def post(data: bytes) -> int:
            files = {"image": ("a", data)}
            return client.post("/variations", files=files, data=wish).status_code

        before = peak_bytes(victim.service.process.pid)
        with ThreadPoolExecutor(4) as callers:
            statuses = [*callers.map(post, mutated(3000, seed=1)), *callers.map(post, bombs)]
        peak = peak_bytes(victim.service.process.pid)
        assert set(statuses) <= {200, 400, 413, 415, 422}
        assert victim.service.worker_pid == worker
        assert post(seeds()[0]) == 200
        lines = victim.service.log().splitlines()
        assert len(lines) > len(statuses)
        assert all(isinstance(json.loads(line), dict) for line in lines)
        record(
            "broken files",
            {
                "files": 3000,
                "bombs": len(bombs),
                "by_status": {str(s): statuses.count(s) for s in sorted(set(statuses))},
                "workers_lost": 0,
                "api_peak_megabytes": round(peak / 1e6),
                "api_peak_before_megabytes": round(before / 1e6),
            },
        )
    # Four uploads with a few copies each; pixels are the decoders', which have limits of their own.
    assert peak - before < 2**29


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return 1024 * int(found[1])
