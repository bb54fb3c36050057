"""Starting and ending the server process, by its port, its signals and what it prints."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from app.api.server import listen
from tests.support.problems import assert_problem
from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import eventually

HOLDING = """
import signal
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine

class Holding(FakeEngine):
    def submit(self, *request, **options):
        print("began", flush=True)
        return super().submit(*request, **options)

engine = Holding()
engine.gate.held = True
signal.signal(signal.SIGUSR1, lambda *_: engine.gate.open())
serve(Settings(), engine, FakeDecoders())
"""


@pytest.fixture
def service() -> Iterator[ServiceProcess]:
    """A ready service whose engine holds every request until SIGUSR1."""
    with service_process(HOLDING) as service:
        service.wait_for("ready:")
        yield service


@pytest.fixture
def held(service: ServiceProcess, png: bytes) -> Iterator[Future[httpx.Response]]:
    """A request that the engine is holding."""
    url = f"{service.url}/variations"
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(httpx.post, url, files={"image": ("a.png", png)}, timeout=60)
        service.wait_for("began")
        yield answer


def readiness(service: ServiceProcess) -> str:
    return str(httpx.get(f"{service.url}/readyz").json()["status"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_idle_server_cleanly(
    service: ServiceProcess, number: signal.Signals
) -> None:
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    service.signal(number)
    service.wait_for("variations: stopping")
    service.assert_clean_end()


def test_what_was_accepted_is_answered_after_the_first_signal(
    service: ServiceProcess, held: Future[httpx.Response]
) -> None:
    service.signal(signal.SIGTERM)
    service.wait_for("stopping once all requests are answered, 1 now; a second signal")
    eventually(lambda: readiness(service) == "draining")
    refused = httpx.post(f"{service.url}/variations", files={"image": ("a.png", b"unread")})
    assert_problem(refused, 503)
    assert refused.headers["connection"] == "close"
    service.signal(signal.SIGUSR1)
    assert held.result().status_code == 200
    service.assert_clean_end()


def test_an_upload_that_was_under_way_is_finished_too(png: bytes) -> None:
    with service_process(HOLDING) as service:
        service.wait_for("ready:")
        drain_during_an_upload(service, png)


def drain_during_an_upload(service: ServiceProcess, png: bytes) -> None:
    def is_under_way() -> bool:
        return "variations_upload_requests 1.0" in httpx.get(f"{service.url}/metrics").text

    request = httpx.Request("POST", f"{service.url}/variations", files={"image": ("a.png", png)})
    body = request.read()
    address = (request.url.host, request.url.port)
    with socket.create_connection(address, timeout=60) as caller:
        names = ("host", "content-type", "content-length")
        head = [f"{name}: {request.headers[name]}" for name in names]
        lines = ["POST /variations HTTP/1.1", "connection: close", *head, "", ""]
        caller.sendall("\r\n".join(lines).encode() + body[:100])
        eventually(is_under_way)
        service.signal(signal.SIGTERM)
        eventually(lambda: readiness(service) == "draining")
        caller.sendall(body[100:])
        service.wait_for("began")
        service.signal(signal.SIGUSR1)
        assert caller.recv(12) == b"HTTP/1.1 200"
    service.assert_clean_end()


def test_what_takes_longer_than_the_drain_time_is_told_so(png: bytes) -> None:
    with service_process(HOLDING, drain_timeout="0.2") as service, ThreadPoolExecutor(1) as caller:
        service.wait_for("ready:")
        url = f"{service.url}/variations"
        answer = caller.submit(httpx.post, url, files={"image": ("a.png", png)}, timeout=60)
        service.wait_for("began")
        service.signal(signal.SIGTERM)
        assert_problem(answer.result(), 503)
        service.assert_clean_end()


def test_a_second_signal_ends_it_at_once_and_tells_who_still_waits(
    service: ServiceProcess, held: Future[httpx.Response]
) -> None:
    service.signal(signal.SIGINT)
    eventually(lambda: readiness(service) == "draining")
    service.signal(signal.SIGINT)
    assert_problem(held.result(), 503)
    assert int(held.result().headers["retry-after"]) >= 1
    service.assert_clean_end()


NEVER_READY = """
from app.api.server import serve
from app.engine.lifecycle import WorkerState
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine

engine = FakeEngine()
engine.worker = WorkerState("failed", "there is no such model")
serve(Settings(), engine, FakeDecoders())
"""


def test_a_service_that_can_never_be_ready_ends_and_says_why() -> None:
    with service_process(NEVER_READY) as service:
        service.wait_for("there is no such model")
        assert service.wait() == 3


def test_or_it_stays_to_tell_the_reason_to_whoever_asks() -> None:
    with service_process(NEVER_READY, on_failure="stay") as service:
        service.wait_for("listening on")
        eventually(lambda: readiness(service) == "failed")
        service.signal(signal.SIGTERM)
        service.assert_clean_end()


def test_a_taken_port_is_named_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        with service_process(HOLDING, port=port) as service:
            assert service.wait() == 1
            (line,) = service.log().splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "VARIATIONS_PORT" in line


def test_small_answers_are_not_delayed_by_nagle() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio looks at to set TCP_NODELAY
