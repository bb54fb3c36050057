"""HTTP as it comes over the wire: bounds on heads, faulty framing, pipelines, targets."""

import itertools
import json
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from app.api import protocol
from tests.support.processes import service_process
from tests.support.scrape import eventually

SECONDS = 60.0
POST = (
    b"POST /variations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n"
)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
BEHIND = b"GET /behind HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=SECONDS) as connection:
        yield connection


def received(connection: socket.socket) -> bytes:
    """All that comes until the service ends the connection."""
    data = b""
    with suppress(ConnectionError):
        while piece := connection.recv(2**16):
            data += piece
    return data


def first_answer(connection: socket.socket) -> bytes:
    """One answer, whole, of known length."""
    data = b""
    while not (found := re.search(rb"content-length: (\d+)\r\n.*?\r\n\r\n", data, re.DOTALL)):
        data += connection.recv(1)
    while len(data) < found.end() + int(found[1]):
        data += connection.recv(1)
    return data


def ended(url: str, sent: bytes) -> bytes:
    """All the answers to what is sent on one connection, which the service must end."""
    with connected(url) as connection:
        connection.sendall(sent)
        return received(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(one[:3]) for one in answers.split(b"HTTP/1.1 ")[1:]]


FAULTY = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, turned": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "a signed length": POST + b"Content-Length: +5\r\n\r\n12345",
    "a folded line": POST + b"A: b\r\n c\r\nContent-Length: 5\r\n\r\n12345",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "no coding": POST + b"Transfer-Encoding: identity\r\n\r\n12345",
    "an unknown coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed": GET + b"A: b\nC: d\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\n12345",
    "a null": GET + b"A: b\0c\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "encrypted": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target that is none": b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_request_is_refused_and_nothing_behind_it_is_answered(url: str, name: str) -> None:
    answers = ended(url, FAULTY[name] + BEHIND)
    [status] = statuses(answers)
    assert status in (400, 501)
    head, _, body = answers.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: ", b"a", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"A: b\r\n", 431),
        (b"GET /", b"a", 414),
        (b"", b"\r\n", 414),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\nA: ", b"a", None),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n0\r\n", b"A: b\r\n", None),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a", None),
    ],
    ids=["value", "headers", "target", "line ends", "trailer", "trailers", "extension"],
)
def test_what_has_no_end_ends_the_connection(
    url: str, start: bytes, more: bytes, status: int | None
) -> None:
    piece = more * (2**16 // len(more))
    with connected(url) as connection:
        connection.sendall(start)
        sent = 0
        with suppress(ConnectionError):
            while sent < 2**25:
                connection.sendall(piece)
                sent += len(piece)
        assert sent < 2**25
        if status:
            with suppress(IndexError):  # where it was lost in what was still on its way
                assert statuses(received(connection))[0] == status


def test_a_long_head_is_told_so(url: str) -> None:
    long = GET + b"A: " + b"a" * (protocol.MAX_HEAD_BYTES + 4096) + b"\r\n\r\n"
    assert statuses(ended(url, long)) == [431]


def test_a_head_below_the_bound_is_read(url: str) -> None:
    almost = GET + b"Connection: close\r\nA: " + b"a" * (2**16 - 5000) + b"\r\n\r\n"
    assert statuses(ended(url, almost)) == [200]


@pytest.mark.parametrize("path", ["/variations", "/nothing", "/healthz"])
def test_a_body_that_goes_on_behind_its_answer_is_ended(
    url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode()
    )
    with connected(url) as connection:
        connection.sendall(head)
        assert statuses(first_answer(connection))[0] in (404, 405, 415)
        with pytest.raises(ConnectionError):
            all(connection.send(chunk) for chunk in itertools.repeat(b"1\r\nx\r\n"))


def test_a_body_that_ends_soon_behind_its_answer_leaves_the_connection(url: str) -> None:
    refused = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(refused)
        assert statuses(first_answer(connection)) == [404]
        connection.sendall(bytes(100_000) + GET + b"Connection: close\r\n\r\n")
        assert statuses(received(connection)) == [200]


@pytest.mark.parametrize("bad", [b"zz\r\n", b"\r\n\r\n", b"-1\r\n", b"1\r\nxx\r\n"])
def test_a_bad_chunk_behind_a_refusal_ends_the_connection(
    url: str, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(head)
        assert statuses(first_answer(connection)) == [404]
        connection.sendall(bad)
        assert received(connection) == b""
    assert [one for one in caplog.records if one.exc_info or "uvicorn" in one.name] == []


def test_pipelined_requests_are_answered_in_their_order(url: str) -> None:
    paths = ["/healthz", "/nothing", "/metrics", "/"] * 500
    requests = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths]
    last = GET + b"Connection: close\r\n\r\n"
    found = statuses(ended(url, b"".join(requests) + last))
    assert found == [404 if path == "/nothing" else 200 for path in paths] + [200]


def test_what_is_faulty_behind_a_sound_request_does_not_spoil_its_answer(url: str) -> None:
    assert statuses(ended(url, GET + b"\r\nno request at all\r\n\r\n")) == [200]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_a_request_that_offers_another_protocol_is_answered_in_this(url: str, upgrade: str) -> None:
    offered = f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n".encode()
    assert statuses(ended(url, GET + offered)) == [200]
    length = b"Content-Length: 5\r\n"
    assert statuses(ended(url, POST + length + offered + b"12345")) == [400]


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost/healthz",
        "http://localhost:1/healthz?a=b",
        "HTTP://LOCALHOST/healthz",
        "/healthz?a=b",
    ],
)
def test_a_target_may_be_of_absolute_form(url: str, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert statuses(ended(url, request.encode())) == [200]


@pytest.mark.parametrize("target", ["http://localhost", "http://localhost?a=b"])
def test_an_absolute_target_without_a_path_is_the_index(url: str, target: str) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answers = ended(url, request.encode())
    assert statuses(answers) == [200]
    assert b'"name":"variations"' in answers


@pytest.mark.parametrize("target", ["*", "/%00", "/%ff", "//x/y", "/a%20b"])
def test_an_odd_target_is_not_found(url: str, target: str) -> None:
    request = f"OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert statuses(ended(url, request.encode())) == [404]


def test_http_1_0_is_answered(url: str) -> None:
    assert statuses(ended(url, b"GET /healthz HTTP/1.0\r\n\r\n")) == [200]


FEW_FILES = """
import resource
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
serve(Settings(), FakeEngine(), FakeDecoders())
"""


def test_where_no_file_is_left_the_log_says_so_once() -> None:
    with service_process(FEW_FILES) as service, ExitStack() as stack:
        service.wait_for("ready:")
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        for _ in range(min(files - 100, 400)):
            stack.enter_context(connected(service.url))
        eventually(lambda: "No connection can be taken" in service.log())
        stack.close()

        def is_served() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{service.url}/healthz").status_code == 200
            return False

        eventually(is_served)
        assert service.log().count("No connection can be taken") == 1
        assert "Traceback" not in service.log()
        assert len(service.log().splitlines()) < 20
