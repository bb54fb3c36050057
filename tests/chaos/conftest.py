"""A real service, `python -m app serve`, whose worker can be made to stumble."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.chaos import FAULTS, Serve, Victim
from tests.support.processes import service_process


@pytest.fixture
def serve(tiny_checkpoint: Path, tmp_path: Path) -> Serve:
    @contextmanager
    def _serve(log: int | None = None, **settings: str) -> Iterator[Victim]:
        wishes = {"max_rows": "16", **settings}
        extra = {"CHAOS_FAULTS": str(tmp_path), "PYTHONPATH": str(FAULTS)}
        with service_process(
            extra=extra,
            log=log,
            model=str(tiny_checkpoint),
            device="cpu",
            dtype="float32",
            **wishes,
        ) as service:
            service.wait_for("ready:")
            with httpx.Client(base_url=service.url, timeout=30) as scraper:
                yield Victim(service, tmp_path, scraper)

    return _serve
