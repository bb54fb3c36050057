"""Who may ask, and what every answer says to a browser."""

import json
import logging

import httpx
import pytest
from pydantic import ValidationError

from app import logs
from app.settings import Settings
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem

KEY, OTHER = "a-key-of-enough-letters", "another-key-for-others"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(
        api_keys=f"{KEY}, {OTHER}",  # type: ignore[arg-type]  # as the environment has it
        key_quota=1,
        cors_origins="https://example.org",  # type: ignore[arg-type]
    )


def post(client: httpx.Client, png: bytes, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return client.post("/variations", files={"image": ("a.png", png)}, headers=headers)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"],
)
def test_without_a_good_key_nothing_is_read(
    client: httpx.Client, png: bytes, engine: FakeEngine, authorization: str | None
) -> None:
    response = post(client, png, authorization)
    body = assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    assert "API key" in body["detail"]
    assert not engine.pictures


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_every_key_is_good(client: httpx.Client, png: bytes, key: str) -> None:
    assert post(client, png, f"Bearer {key}").status_code == 200


def test_probes_and_metrics_need_no_key(client: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/", "/docs"):
        assert client.get(path).status_code == 200


def test_a_key_is_shown_nowhere(client: httpx.Client, settings: Settings) -> None:
    assert KEY not in repr(settings) + client.get("/metrics").text + client.get("/").text


def test_a_page_of_an_allowed_origin_may_call_and_no_other(client: httpx.Client) -> None:
    def allowed(origin: str) -> object:
        headers = client.get("/", headers={"origin": origin}).headers
        return headers.get("access-control-allow-origin")

    assert allowed("https://example.org") == "https://example.org"
    assert allowed("https://example.com") is None


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    for path in ("/", "/nowhere", "/healthz"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_keys_are_needed(host: str) -> None:
    with pytest.raises(ValidationError, match="VARIATIONS_API_KEYS"):
        Settings(host=host)
    assert Settings(host=host, allow_anonymous=True).host == host
    assert Settings(host=host, api_keys=KEY).host == host  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_no_keys_are_needed(host: str) -> None:
    assert Settings(host=host).api_keys == ()


def test_a_key_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 16 characters"):
        Settings(api_keys="secret")  # type: ignore[arg-type]


def test_a_log_line_in_json_has_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("info", "json", "api")
        logging.getLogger("app.x").info("done in %d", 3, extra={"request_id": "abc"})
        line = json.loads(capsys.readouterr().err)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "app.x",
        "message": "done in 3",
        "process": "api",
        "request_id": "abc",
    }
