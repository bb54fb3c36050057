"""Refusals before the body is read, and while it is."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.middleware.limiter import LEAST_UPLOADS, UPLOADS_PER_PLACE
from app.engine.lifecycle import WorkerState
from app.settings import Settings
from tests.support.bombs import BOMBS
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem
from tests.support.scrape import eventually, value
from tests.support.sockets import send_request

MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(max_queue=2, max_upload_bytes=LIMIT, max_pixels=10_000, upload_timeout=2.0)


def head(*lines: str) -> bytes:
    """A request's head whose body is announced and never sent."""
    fixed = ("POST /variations HTTP/1.1", "Host: localhost", f"Content-Type: {MULTIPART}")
    return "\r\n".join((*fixed, *lines, "", "")).encode()


def answer_to(url: str, data: bytes) -> bytes:
    """The first bytes of the answer, without ever sending the body."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(data)
        return connection.recv(65536)


def test_a_declared_length_over_the_limit_is_refused_unread(url: str) -> None:
    answer = answer_to(url, head(f"Content-Length: {LIMIT + 1}"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


def test_a_request_is_refused_unread_while_the_service_is_not_ready(
    url: str, engine: FakeEngine
) -> None:
    engine.worker = WorkerState("down", "the worker ended")
    assert answer_to(url, head("Content-Length: 1000")).startswith(b"HTTP/1.1 503 ")


def test_what_will_not_start_is_told_without_its_folder_on_the_disk(
    post: Post, client: httpx.Client, engine: FakeEngine
) -> None:
    reason = "/home/somebody/models/mine has no safety checker; see https://x.org/a/b/c"
    told = "…/mine has no safety checker; see https://x.org/a/b/c"
    engine.worker = WorkerState("failed", reason)
    assert client.get("/readyz").json()["reason"] == told
    response = post()
    body = assert_problem(response, 503)
    assert told in body["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry_after" not in body


def test_a_client_that_waits_to_be_told_to_send_is_refused_without_sending(url: str) -> None:
    answer = answer_to(url, head(f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("megabytes", [2, 40])
def test_an_ordinary_client_gets_the_413_though_it_was_still_sending(
    client: httpx.Client, megabytes: int
) -> None:
    response = client.post(
        "/variations", content=bytes(megabytes * 10**6), headers={"content-type": MULTIPART}
    )
    body = assert_problem(response, 413)
    assert "at most 1,000,000 bytes" in body["detail"]
    assert client.get("/healthz").status_code == 200


def test_a_body_of_undeclared_length_is_cut_off_at_the_limit(
    client: httpx.Client, engine: FakeEngine
) -> None:
    def body() -> Iterator[bytes]:
        yield PART
        for _ in range(20):
            yield bytes(LIMIT // 10)

    response = client.post("/variations", content=body(), headers={"content-type": MULTIPART})
    assert "at most 1,000,000 bytes" in assert_problem(response, 413)["detail"]
    assert not engine.parameters


def test_too_many_pixels_are_a_413_of_the_field_image(post: Post) -> None:
    for name, make in BOMBS.items():
        if not name.endswith("_of_many_pixels"):
            continue
        data = make(0)
        assert_problem(post(data), 413)


def test_a_full_queue_is_a_429_and_takes_requests_again_afterwards(
    post: Post, engine: FakeEngine
) -> None:
    engine.gate.held = True
    with ThreadPoolExecutor(2) as callers:
        running = [callers.submit(post) for _ in range(2)]
        for _ in running:
            assert engine.gate.reached.acquire(timeout=60)
        refused = post()
        assert_problem(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        engine.gate.open()
        assert [one.result().status_code for one in running] == [200, 200]
    assert post().status_code == 200


@contextmanager
def uploading(url: str, number: int) -> Iterator[list[socket.socket]]:
    """Connections on which uploads have begun, and will not end by themselves."""
    address = urlsplit(url)
    with ExitStack() as stack:
        uploads = []
        for _ in range(number):
            upload = socket.create_connection((address.hostname, address.port), timeout=30)
            stack.enter_context(upload)
            upload.sendall(head("Content-Length: 1000", "Expect: 100-continue"))
            assert upload.recv(1000).startswith(b"HTTP/1.1 100 ")  # now its body is being read
            uploads.append(upload)
        yield uploads


def test_uploads_under_way_take_nobodys_place(
    url: str, post: Post, client: httpx.Client, engine: FakeEngine
) -> None:
    eventually(lambda: value(client, "variations_upload_requests") == 0)
    with uploading(url, 5):
        assert value(client, "variations_upload_requests") == 5
        assert post().status_code == 200
        assert post().status_code == 200
    eventually(lambda: value(client, "variations_upload_requests") == 0)


def test_uploads_under_way_are_bounded(url: str, post: Post, client: httpx.Client) -> None:
    most = max(LEAST_UPLOADS, UPLOADS_PER_PLACE * 2) // 2
    eventually(lambda: value(client, "variations_upload_requests") == 0)
    counted = {"reason": "uploads"}
    before = value(client, "variations_refusals_total", counted)
    with uploading(url, most):
        refused = post()
        assert f"{most} uploads" in assert_problem(refused, 429)["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert answer_to(url, head("Content-Length: 1000")).startswith(b"HTTP/1.1 429 ")
    assert value(client, "variations_refusals_total", counted) == before + 2
    eventually(lambda: value(client, "variations_upload_requests") == 0)
    assert post().status_code == 200


def test_an_upload_that_is_whole_only_when_the_queue_has_filled_is_a_429(
    url: str, png: bytes, engine: FakeEngine
) -> None:
    engine.gate.held = True
    body = PART + png + b"\r\n--x--\r\n"
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as late:
        late.sendall(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert late.recv(1000).startswith(b"HTTP/1.1 100 ")
        late.sendall(body[:-1])
        with send_request(url, png), send_request(url, png):
            for _ in range(2):
                assert engine.gate.reached.acquire(timeout=60)
            # Another head is told so unread, and the upload only once it is whole.
            assert answer_to(url, head("Content-Length: 1000")).startswith(b"HTTP/1.1 429 ")
            late.sendall(body[-1:])
            assert late.recv(65536).startswith(b"HTTP/1.1 429 ")
    assert len(engine.parameters) == 2


def test_a_body_that_comes_too_slowly_is_a_408(url: str, client: httpx.Client) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as slow:
        slow.sendall(head("Content-Length: 1000") + PART)
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("bad", [b"no picture", b""])
def test_a_failed_request_makes_room_again(post: Post, bad: bytes) -> None:
    for _ in range(5):
        assert post(bad).status_code == 400
    assert post().status_code == 200


def test_hundreds_of_fields_and_huge_ones_are_refused(client: httpx.Client, png: bytes) -> None:
    many = {f"field{index}": "1" for index in range(500)}
    response = client.post("/variations", files={"image": ("a", png)}, data=many)
    assert_problem(response, 400)
    huge = {"scheduler": "x" * 100_000}
    response = client.post("/variations", files={"image": ("a", png)}, data=huge)
    assert assert_problem(response, 422)["errors"][0]["field"] == "scheduler"
    assert len(response.content) < 2000
