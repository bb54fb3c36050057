"""One caller does whatever hurts; another, with a key of its own, notices little."""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.support.attacks import ATTACKS
from tests.support.chaos import Serve, Victim
from tests.support.figures import record
from tests.support.load import photo

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

NEIGHBOUR, OTHER = "neighbour-0123456789", "other-0123456789abcd"
USUAL_SECONDS, SETTLING_SECONDS, ATTACK_SECONDS = 6.0, 4.0, 12.0
FORM = {"num_inference_steps": "20", "scheduler": "ddim", "seed": "1"}
PATIENCE = 40.0


class Neighbour:
    """Asks for ``/healthz`` twenty times a second, and for one small request after the other."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.health: list[float] = []
        self.requests: list[float] = []
        self._stop = threading.Event()

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=one) for one in (self._look, self._ask)]
        self._stop.clear()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _look(self) -> None:
        self._repeat(self.health, lambda client: client.get("/healthz"), pause=0.05)

    def _ask(self) -> None:
        files = {"image": ("a.png", photo())}
        self._repeat(
            self.requests, lambda client: client.post("/variations", files=files, data=FORM)
        )

    def _repeat(
        self,
        seconds: list[float],
        ask: Callable[[httpx.Client], httpx.Response],
        pause: float = 0.0,
    ) -> None:
        headers = {"authorization": f"Bearer {NEIGHBOUR}"}
        with httpx.Client(base_url=self.url, timeout=PATIENCE, headers=headers) as client:
            while not self._stop.wait(pause):
                began = time.monotonic()
                self._until_answered(client, ask, began + PATIENCE)
                seconds.append(time.monotonic() - began)

    def _until_answered(
        self, client: httpx.Client, ask: Callable[[httpx.Client], httpx.Response], end: float
    ) -> None:
        """Asks again as told; what is not answered in time counts with that time."""
        while time.monotonic() < end:
            try:
                response = ask(client)
            except httpx.TransportError:
                continue
            if response.status_code == 200:
                return
            assert response.status_code in (429, 503), response.text
            if self._stop.wait(float(response.headers.get("retry-after-ms", 1000)) / 1000):
                return


def rank(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


@contextmanager
def attacked(victim: Victim, name: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.support.attacks", name, victim.url, OTHER]
    with subprocess.Popen(["nice", "-n", "19", *command]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def unread_log() -> Iterator[int]:
    """A pipe for the log, which is full in a moment."""
    reading, writing = os.pipe()
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_neighbour_notices_little(serve: Serve, name: str) -> None:
    queue = "4" if name == "asking every 20 ms" else "64"
    settings = {"api_keys": f"{NEIGHBOUR},{OTHER}", "max_queue": queue}
    with unread_log() as log, serve(log if "log" in name else None, **settings) as victim:
        usual = Neighbour(victim.url)
        with usual.asking():
            time.sleep(USUAL_SECONDS)
        before = victim.resident()
        then = Neighbour(victim.url)
        with attacked(victim, name):
            time.sleep(SETTLING_SECONDS)
            with then.asking():
                time.sleep(ATTACK_SECONDS)
        grown = (victim.resident() - before) / 2**20
    most, usually = rank(then.requests, 0.9), statistics.median(usual.requests)
    figures: dict[str, object] = {
        "healthz p99 ms": round(1000 * rank(then.health, 0.99), 1),
        "its usual p99 ms": round(1000 * rank(usual.health, 0.99), 1),
        "small request p90, over its usual time": round(most / usually, 2),
        "memory grown MB": round(grown),
    }
    record(f"a bad neighbour: {name}", figures)
    assert rank(then.health, 0.99) < 0.1, figures
    # Places are shared, and steps are not: who has a place waits for the work of those before it.
    assert most < 3 * usually, figures
    assert grown <= 150, figures
