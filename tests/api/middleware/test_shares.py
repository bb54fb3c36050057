"""Callers with keys of their own get in, whatever the others do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from app.settings import Settings
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem
from tests.support.scrape import eventually, value
from tests.support.sockets import send_request

KEYS = [f"a-key-of-enough-letters-{number}" for number in range(3)]
PLACES = 4
PAUSE = 0.02


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(api_keys=", ".join(KEYS), max_queue=PLACES)  # type: ignore[arg-type]


def post(client: httpx.Client, png: bytes, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return client.post("/variations", files={"image": ("a.png", png)}, headers=headers)


@contextmanager
def hammering(url: str, png: bytes, keys: list[str], refusals: int = 3) -> Iterator[None]:
    """Each of these keys asks all the time, and has been refused so often when this begins."""
    stop = threading.Event()
    refused = [threading.Semaphore(0) for _ in keys]

    def hammer(key: str, refused: threading.Semaphore) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.wait(PAUSE):
                if post(client, png, key).status_code == 429:
                    refused.release()

    threads = [
        threading.Thread(target=hammer, args=each) for each in zip(keys, refused, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        for each in refused:
            for _ in range(refusals):
                assert each.acquire(timeout=60)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("crowd", [1, 2])
def test_a_newcomer_with_its_own_key_has_the_next_place_while_others_ask_all_the_time(
    url: str, client: httpx.Client, engine: FakeEngine, png: bytes, crowd: int
) -> None:
    engine.gate.held = True
    others, newcomer = KEYS[:crowd], KEYS[crowd]
    with ExitStack() as stack:
        held = []
        for number in range(PLACES):
            held.append(stack.enter_context(send_request(url, png, key=others[number % crowd])))
            assert engine.gate.reached.acquire(timeout=60)
        with hammering(url, png, others):
            refused = post(client, png, newcomer)
            assert_problem(refused, 429)
            assert int(refused.headers["retry-after"]) >= 1
            held[0].close()
            assert engine.gone.wait(60)
            stack.enter_context(send_request(url, png, key=newcomer))
            assert engine.gate.reached.acquire(timeout=60)
            assert len(engine.parameters) == PLACES + 1
    eventually(lambda: value(client, "variations_upload_requests") == 0)
    engine.gate.open()


def test_uploads_under_way_of_one_key_leave_room_for_another(
    url: str, client: httpx.Client, engine: FakeEngine, png: bytes
) -> None:
    """As many as it can have."""
    head = [
        "POST /variations HTTP/1.1",
        "Host: localhost",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Length: 1000",
        f"Authorization: Bearer {KEYS[0]}",
        "Expect: 100-continue",
    ]
    address = urlsplit(url)
    with ExitStack() as stack:
        for _ in range(64):
            connection = socket.create_connection((address.hostname, address.port), timeout=60)
            stack.enter_context(connection)
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            if not connection.recv(1000).startswith(b"HTTP/1.1 100 "):
                break
        else:
            raise AssertionError("its uploads are not bounded")
        assert post(client, png, KEYS[1]).status_code == 200
        assert post(client, png, KEYS[2]).status_code == 200
