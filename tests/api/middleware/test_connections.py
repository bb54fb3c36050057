"""Clients that say nothing, or do not listen, over real sockets."""

import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import eventually

LARGE_ANSWERS = """
import resource
from dataclasses import replace
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.requests import MODEL

if {files}:
    resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
engine = FakeEngine()
engine.model = replace(MODEL, sizes=((512, 512),))
serve(Settings(), engine, FakeDecoders())
"""

SOON = 60.0
"""Seconds after which a test gives up; those of the service are 1."""

HEAD = b"POST /variations HTTP/1.1\r\nhost: localhost\r\n"
REFUSED = HEAD + b"content-type: text/plain\r\ncontent-length: 1000000\r\n\r\n"


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """A service that waits a second for a client, and takes one request at a time."""
    code = LARGE_ANSWERS.format(files=0)
    with service_process(code, upload_timeout="1", max_queue="1") as service:
        service.wait_for("ready:")
        yield service


def connect(service: ServiceProcess, receive_bytes: int | None = None) -> socket.socket:
    url = httpx.URL(service.url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(SOON)
    connection.connect((url.host, url.port))
    return connection


def is_ended(connection: socket.socket) -> bool:
    """The service has ended it; all that it sent before is passed over."""
    with suppress(BlockingIOError):
        try:
            while connection.recv(2**16, socket.MSG_DONTWAIT):
                pass
        except ConnectionError:
            pass
        return True
    return False


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b""), (HEAD, b"a: b\r\n"), (REFUSED, b"a")],
    ids=["says nothing", "a head without end", "goes on after a refusal"],
)
def test_a_connection_without_a_request_is_ended(
    service: ServiceProcess, first: bytes, then: bytes
) -> None:
    with connect(service) as connection:
        connection.sendall(first)
        end = time.monotonic() + SOON
        while not is_ended(connection):
            assert time.monotonic() < end, "it is still open"
            select.select([connection], [], [], 0.1)
            with suppress(ConnectionError):
                connection.sendall(then)


def test_a_connection_is_kept_for_a_further_request(service: ServiceProcess) -> None:
    """Longer than a client has for its first one: a proxy keeps its connections for a minute."""
    with connect(service) as kept, connect(service) as idle:
        get = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for _ in range(2):
            kept.sendall(get)
            answer = kept.recv(2**16)
            while answer and not answer.endswith(b"}"):
                answer += kept.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 200")
            if not is_ended(idle):
                assert select.select([idle], [], [], SOON)[0], "it is still open"
                assert is_ended(idle)


def ask_for_much(service: ServiceProcess, png: bytes, connection: socket.socket) -> None:
    """Send a request whose answer is several megabytes, and read nothing."""
    data = {"n": "8"}
    request = httpx.Request(
        "POST", f"{service.url}/variations", data=data, files={"image": ("a.png", png)}
    )
    body = request.read()
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST /variations HTTP/1.1", *lines, "", ""])
    connection.sendall(head.encode() + body)


def post(service: ServiceProcess, png: bytes) -> int:
    files = {"image": ("a.png", png)}
    return httpx.post(f"{service.url}/variations", files=files, timeout=60).status_code


def test_a_request_whose_answer_is_not_read_is_counted_and_not_for_long(
    service: ServiceProcess, png: bytes
) -> None:
    with connect(service, receive_bytes=4096) as connection:
        ask_for_much(service, png, connection)
        assert select.select([connection], [], [], SOON)[0], "there is no answer"
        assert post(service, png) == 429
        eventually(lambda: post(service, png) == 200)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_nor_does_it_where_another_request_is_on_its_way_behind_it(
    service: ServiceProcess, png: bytes
) -> None:
    with connect(service, receive_bytes=4096) as connection:
        ask_for_much(service, png, connection)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert select.select([connection], [], [], SOON)[0], "there is no answer"
        assert post(service, png) == 429
        eventually(lambda: post(service, png) == 200)


def test_an_answer_that_is_not_read_does_not_keep_the_service_from_ending(png: bytes) -> None:
    with service_process(LARGE_ANSWERS.format(files=0), upload_timeout="1") as service:
        service.wait_for("ready:")
        with connect(service, receive_bytes=4096) as connection:
            ask_for_much(service, png, connection)
            assert select.select([connection], [], [], SOON)[0], "there is no answer"
            service.signal(signal.SIGTERM)
            service.assert_clean_end()


def test_silent_connections_do_not_keep_others_out(png: bytes) -> None:
    code = LARGE_ANSWERS.format(files=150)
    with service_process(code, max_queue="1") as service, ExitStack() as stack:
        service.wait_for("ready:")
        for _ in range(200):
            stack.enter_context(connect(service))

        def is_served() -> bool:
            with suppress(httpx.TransportError):  # turned away while there is no file for it
                return post(service, png) == 200
            return False

        eventually(is_served)
