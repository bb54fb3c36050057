"""A client that goes away takes its request with it."""

import asyncio
import errno
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from tests.support.bombs import slow_jpeg
from tests.support.client import Post
from tests.support.engine import process_is_gone
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.scrape import eventually, value
from tests.support.serving import serving
from tests.support.sockets import RESET_ON_CLOSE, send_request

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST /variations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"

BEHIND = {
    "nothing": b"",
    "a line end": b"\r\n",
    "a request": GET,
    "many requests": 300 * GET,
    "an upload": UPLOAD + bytes(10_000),
}
"""As much as the kernel takes without anybody reading: an end behind more cannot arrive."""


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("way", ["closed", "reset", "half-closed"])
def test_a_connection_that_ends_cancels_its_request(
    url: str, client: httpx.Client, engine: FakeEngine, png: bytes, way: str, behind: str
) -> None:
    """Whatever it has sent behind it."""
    counted = {"route": "/variations", "status": "499"}
    before = value(client, "variations_requests_total", counted)
    engine.gate.held = True
    connection = send_request(url, png)
    assert engine.gate.reached.acquire(timeout=60)
    connection.settimeout(60)
    with suppress(TimeoutError, BlockingIOError):  # where the service does not read so much
        connection.setblocking(False)
        connection.sendall(BEHIND[behind])
    if way == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    if way == "half-closed":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    assert engine.gone.wait(60)
    connection.close()
    eventually(lambda: value(client, "variations_requests_total", counted) == before + 1)


def test_a_client_is_not_cut_off_where_its_end_cannot_be_watched(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_files() -> select.epoll:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(select, "epoll", no_more_files)
    assert post().status_code == 200


def test_a_client_that_leaves_during_its_upload_is_counted_and_forgotten(
    url: str, client: httpx.Client, engine: FakeEngine
) -> None:
    counted = {"route": "/variations", "status": "499"}
    before = value(client, "variations_requests_total", counted)
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as half:
        half.sendall(
            b"POST /variations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n"
        )
        assert half.recv(100).startswith(b"HTTP/1.1 100 ")
    eventually(lambda: value(client, "variations_requests_total", counted) == before + 1)
    assert not engine.parameters


def test_a_client_that_leaves_while_its_picture_is_decoded_ends_the_decoding(
    url: str, engine: FakeEngine, decoders: FakeDecoders, png: bytes
) -> None:
    decoders.gate.held = True
    with send_request(url, png):
        assert decoders.gate.reached.acquire(timeout=60)
    assert decoders.gone.wait(60)
    assert not engine.parameters


def test_a_server_may_cancel_the_request_of_a_client_that_left(png: bytes) -> None:
    engine = FakeEngine()
    engine.gate.held = True
    app = create_app(Settings(), engine, FakeDecoders())

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            posted = asyncio.create_task(client.post("/variations", files={"image": png}))
            assert await asyncio.to_thread(engine.gate.reached.acquire, timeout=60)
            posted.cancel()
            with suppress(asyncio.CancelledError):
                await posted
            counted = {"route": "/variations", "status": "499"}
            registry = app.state.service.metrics.registry
            assert registry.get_sample_value("variations_requests_total", counted) == 1

    asyncio.run(scenario())
    assert engine.gone.is_set()


def test_a_client_that_leaves_ends_the_process_that_decodes_its_picture(png: bytes) -> None:
    """And the neighbour's, behind it, is decoded."""
    engine, keys = FakeEngine(), ["a-key-of-enough-letters", "another-key-for-others"]
    settings = Settings(api_keys=",".join(keys), decoders=1)  # type: ignore[arg-type]
    app = create_app(settings, engine)
    decoders = app.state.service.decoders
    with serving(app) as url, ThreadPoolExecutor(1) as neighbour:
        slow = slow_jpeg()
        with send_request(url, slow, key=keys[0]), send_request(url, slow, key=keys[0]):
            eventually(lambda: len(decoders.pids) == 1 and decoders.waiting == 1)
            (pid,) = decoders.pids
            answer = neighbour.submit(
                httpx.post,
                f"{url}/variations",
                files={"image": ("a.png", png)},
                headers={"authorization": f"Bearer {keys[1]}"},
                timeout=60,
            )
            eventually(lambda: decoders.waiting == 2)
        assert answer.result().status_code == 200
        assert process_is_gone(pid)
        eventually(lambda: not decoders.pids)
    assert len(engine.parameters) == 1
