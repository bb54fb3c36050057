"""API keys, and the headers by which every answer speaks to a browser."""

import httpx
import pytest

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
    assert not engine.parameters


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
