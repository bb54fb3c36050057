"""Webhooks, told to a real receiver and read by the library of Standard Webhooks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from app.api.application import create_app
from app.api.stored import webhooks
from app.errors import GenerationFailed
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.scrape import eventually, value
from tests.support.serving import serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ASYNC = {"prefer": "respond-async"}


class Receiver(HTTPServer):
    """Takes posts; answers with the ``statuses`` in turn, and then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.posts: Queue[tuple[dict[str, str], bytes]] = Queue()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.put((dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def service(
    receiver: Receiver, store: Path | None = None, engine: FakeEngine | None = None
) -> Iterator[httpx.Client]:
    settings = Settings(
        webhook_origins=(receiver.origin,), webhook_secret=SecretStr(SECRET), store=store
    )
    app = create_app(settings, engine or FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def post(client: httpx.Client, png: bytes, webhook: str, **headers: str) -> httpx.Response:
    files, data = {"image": ("a.png", png)}, {"webhook": webhook}
    return client.post("/variations", files=files, data=data, headers=headers)


def verified(receiver: Receiver) -> dict[str, Any]:
    """What the next post says, once its signature has been found good."""
    headers, body = receiver.posts.get(timeout=60)
    message: dict[str, Any] = Webhook(SECRET).verify(body, headers)
    return message


def deliveries(client: httpx.Client, outcome: str) -> float:
    return value(client, "variations_webhook_deliveries_total", {"outcome": outcome})


def test_a_webhook_is_told_of_the_end_signed(receiver: Receiver, png: bytes) -> None:
    engine = FakeEngine()
    with service(receiver, engine=engine) as client:
        done = post(client, png, f"{receiver.origin}/hook?of=me", **ASYNC).json()["id"]
        message = verified(receiver)
        assert (message["type"], message["data"]["id"]) == ("variations.done", done)
        assert (message["data"]["status"], message["data"]["pictures"]) == ("done", [0])
        assert "result" not in message["data"]
        engine.error = GenerationFailed("it broke")
        post(client, png, receiver.origin, **ASYNC)
        message = verified(receiver)
        assert message["type"] == "variations.failed"
        assert message["data"]["error"]["detail"] == "it broke"
        eventually(lambda: deliveries(client, "delivered") == 2)


def test_a_webhook_that_does_not_take_it_is_told_again(
    receiver: Receiver,
    png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(webhooks, "DELAYS", (0.01, 0.01))
    caplog.set_level("INFO", logger=webhooks.__name__)
    receiver.statuses = [500, 302]
    with service(receiver) as client:
        post(client, png, receiver.origin, **ASYNC)
        assert len({verified(receiver)["data"]["id"] for _ in range(3)}) == 1
        eventually(lambda: deliveries(client, "delivered") == 1)
        assert deliveries(client, "failed") == 2
        receiver.statuses = [500] * 3
        given_up = post(client, png, receiver.origin, **ASYNC).json()["id"]
        eventually(lambda: deliveries(client, "given_up") == 1)
    last = caplog.records[-1]
    assert (last.levelname, last.request_id) == ("WARNING", given_up)  # type: ignore[attr-defined]
    assert last.getMessage() == f"Webhook of {given_up} given up: it answered 500"


def test_what_was_not_told_before_a_restart_is_told_after_it(
    receiver: Receiver, png: bytes, tmp_path: Path
) -> None:
    receiver.statuses = [500]
    with service(receiver, tmp_path / "store") as client:
        location = post(client, png, receiver.origin, **ASYNC).headers["location"]
        first = verified(receiver)
        eventually(lambda: deliveries(client, "failed") == 1)
    with service(receiver, tmp_path / "store") as client:
        assert verified(receiver)["data"] == first["data"]
        eventually(lambda: deliveries(client, "delivered") == 1)
        assert client.get(location).json()["status"] == "done"
    with service(receiver, tmp_path / "store") as client:
        assert receiver.posts.empty()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/", "https://127.0.0.1", "file:///etc/passwd", "no address",
        "{origin}.example.org/", "{origin}@example.org/", "http://user@{host}/",
    ],
)  # fmt: skip
def test_only_what_the_operator_allowed_is_told(receiver: Receiver, png: bytes, url: str) -> None:
    host = receiver.origin.removeprefix("http://")
    with service(receiver) as client:
        problem = post(client, png, url.format(origin=receiver.origin, host=host), **ASYNC)
        assert assert_problem(problem, 422)["errors"][0]["field"] == "webhook"
        assert receiver.posts.empty()


def test_a_webhook_is_for_those_who_do_not_wait_and_off_by_default(
    receiver: Receiver, png: bytes
) -> None:
    with service(receiver) as client:
        detail = assert_problem(post(client, png, receiver.origin), 422)["detail"]
        assert "Prefer: respond-async" in detail
    app = create_app(Settings(), FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url) as client:
        detail = assert_problem(post(client, png, receiver.origin, **ASYNC), 422)["detail"]
        assert "VARIATIONS_WEBHOOK_ORIGINS" in detail
