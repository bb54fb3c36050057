"""Pages of other sites, and names that lead here, where no key is asked for."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.serving import serving

KEY = "0123456789abcdef"


def served(**settings: Any) -> Iterator[str]:
    with serving(create_app(Settings(**settings), FakeEngine(), FakeDecoders())) as url:
        yield url


@pytest.fixture(scope="module")
def named() -> Iterator[str]:
    """The address of a service with names of its own."""
    yield from served(allowed_hosts=("example.org", "*.example.net", "[2001:db8::1]"))


@pytest.fixture(scope="module")
def with_origins() -> Iterator[str]:
    """The address of a service that lets one origin in."""
    yield from served(cors_origins=("https://page.example",))


@pytest.fixture(scope="module")
def with_keys() -> Iterator[str]:
    """The address of a service with keys."""
    yield from served(api_keys=(KEY,))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]:8000", "[::1]"]
)
def test_on_loopback_its_own_names_are_taken(client: httpx.Client, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"],
)
@pytest.mark.parametrize("path", ["/", "/variations", "/metrics", "/nothing"])
def test_a_foreign_name_is_refused(client: httpx.Client, host: str, path: str) -> None:
    problem = assert_problem(client.get(path, headers={"host": host}), 421)
    assert "VARIATIONS_ALLOWED_HOSTS" in problem["detail"]


def test_names_can_be_set(named: str) -> None:
    for host, status in (
        ("example.org:80", 200),
        ("a.example.net", 200),
        ("a.b.example.net", 200),
        ("[2001:db8::1]:8000", 200),
        ("example.net", 421),
        ("aexample.net", 421),
        ("localhost", 421),
    ):
        assert httpx.get(f"{named}/healthz", headers={"host": host}).status_code == status, host


def test_with_keys_any_name_is_taken(with_keys: str) -> None:
    answer = httpx.get(f"{with_keys}/healthz", headers={"host": "10.1.2.3"})
    assert answer.status_code == 200


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_a_foreign_page_sends_is_refused(
    client: httpx.Client, post: Post, engine: FakeEngine, headers: dict[str, str]
) -> None:
    client.headers.update(headers)
    assert "VARIATIONS_CORS_ORIGINS" in assert_problem(post(), 403)["detail"]
    assert not engine.parameters


def test_what_its_own_page_or_a_program_sends_is_taken(
    client: httpx.Client, post: Post, url: str
) -> None:
    assert post().status_code == 200
    for headers in (
        {"origin": url},
        {"origin": url, "sec-fetch-site": "same-origin"},
        {"origin": "https://gateway.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ):
        client.headers.update(headers)
        assert post().status_code == 200, headers


def test_a_foreign_page_may_look(client: httpx.Client) -> None:
    headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    answer = client.get("/healthz", headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_origin_is_let_in(with_origins: str, png: bytes) -> None:
    files = {"image": ("a.png", png)}
    for origin, status in (("https://page.example", 200), ("https://other.example", 403)):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        answer = httpx.post(f"{with_origins}/variations", files=files, headers=headers)
        assert answer.status_code == status
        assert ("access-control-allow-origin" in answer.headers) == (status == 200)


def test_with_keys_a_page_needs_no_more_than_a_key(with_keys: str, png: bytes) -> None:
    headers = {"origin": "https://app.example", "authorization": f"Bearer {KEY}"}
    files = {"image": ("a.png", png)}
    answer = httpx.post(f"{with_keys}/variations", files=files, headers=headers)
    assert answer.status_code == 200
