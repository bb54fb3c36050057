"""Starting and ending the server process, by its port, its signals and what it prints."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from app.api.server import listen
from tests.api.processes import assert_clean_end, launch, read_until, url_in
from tests.api.scrape import eventually
from tests.api.test_problems import assert_problem

HOLDING = """
import signal
from app.api.server import serve
from app.settings import Settings
from tests.api.fakes import FakeEngine

class Holding(FakeEngine):
    async def run(self, *request):
        print("began", flush=True)
        return await super().run(*request)

engine = Holding()
engine.hold = True
signal.signal(signal.SIGUSR1, lambda *_: engine.release())
serve(Settings(), engine)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A service whose engine holds every request until SIGUSR1."""
    process = launch(HOLDING)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def url(process: subprocess.Popen[str]) -> str:
    return url_in(read_until(process, "ready:"))


@pytest.fixture
def held(process: subprocess.Popen[str], url: str, png: bytes) -> Iterator[Future[httpx.Response]]:
    """A request that the engine is holding."""
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(
            httpx.post, f"{url}/variations", files={"image": ("a.png", png)}, timeout=60
        )
        read_until(process, "began")
        yield answer


def refuses_connections(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz")
    except httpx.ConnectError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_server_cleanly(
    process: subprocess.Popen[str], url: str, number: signal.Signals
) -> None:
    assert httpx.get(f"{url}/readyz").status_code == 200
    process.send_signal(number)
    assert_clean_end(process)


def test_what_was_accepted_is_answered_after_the_first_signal(
    process: subprocess.Popen[str], url: str, held: Future[httpx.Response]
) -> None:
    process.send_signal(signal.SIGINT)
    eventually(lambda: refuses_connections(url))
    process.send_signal(signal.SIGUSR1)
    assert held.result().status_code == 200
    assert_clean_end(process)


def test_a_second_signal_ends_it_at_once_and_tells_who_still_waits(
    process: subprocess.Popen[str], url: str, held: Future[httpx.Response]
) -> None:
    process.send_signal(signal.SIGINT)
    eventually(lambda: refuses_connections(url))
    process.send_signal(signal.SIGINT)
    assert_problem(held.result(), 503)
    assert_clean_end(process)


def test_a_taken_port_is_named_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        process = launch(HOLDING, port=port)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "VARIATIONS_PORT" in line


def test_small_answers_are_not_delayed_by_nagle() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks at to set TCP_NODELAY
