"""Behind a proxy that shows the service below a path of its own."""

import re
from collections.abc import Iterator

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.serving import serving

PREFIX = "/variations-api"


@pytest.fixture(scope="module", params=["stripped", "kept", "set"])
def way(request: pytest.FixtureRequest) -> str:
    """A proxy takes the prefix out of the path, leaves it there, or does not speak of it."""
    return str(request.param)


@pytest.fixture(scope="module")
def base(way: str) -> Iterator[str]:
    settings = Settings(root_path=PREFIX if way == "set" else "")
    with serving(create_app(settings, FakeEngine(), FakeDecoders())) as url:
        yield url


@pytest.fixture
def behind(base: str, way: str) -> Iterator[httpx.Client]:
    """A client of the proxy: its paths are those that a browser sees."""

    def pass_on(request: httpx.Request) -> None:
        if way != "set":
            request.headers["x-forwarded-prefix"] = PREFIX
        if way != "kept":
            path = request.url.raw_path.decode()
            assert path.startswith(f"{PREFIX}/")
            request.url = request.url.copy_with(raw_path=path.removeprefix(PREFIX).encode())

    with httpx.Client(base_url=base, event_hooks={"request": [pass_on]}) as client:
        yield client


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_pages_find_their_parts_below_the_prefix(behind: httpx.Client, page: str) -> None:
    text = behind.get(PREFIX + page, headers={"accept": "text/html"}).text
    sources = re.findall(r'(?:src|href)="([^"#]+\.[^"#]+)"', text)
    assert sources
    for source in sources:
        assert ":" not in source
        assert behind.get(f"{PREFIX}/{source}").status_code == 200, source


@pytest.mark.usefixtures("way")
def test_the_document_and_the_links_have_the_prefix(behind: httpx.Client) -> None:
    assert behind.get(f"{PREFIX}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    links = behind.get(f"{PREFIX}/").json()["links"]
    assert links["variations"] == f"{PREFIX}/variations"
    for link in links.values():
        assert behind.get(link).status_code in (200, 405), link


def test_a_form_is_taken_and_a_problem_names_the_path_that_was_asked(
    behind: httpx.Client, png: bytes
) -> None:
    url, files = f"{PREFIX}/variations", {"image": ("a.png", png)}
    assert behind.post(url, files=files).status_code == 200
    problem = assert_problem(behind.post(url, files=files, data={"n": "9"}), 422)
    assert problem["instance"] == url
    assert assert_problem(behind.get(f"{PREFIX}/nothing"), 404)["instance"] == f"{PREFIX}/nothing"


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example", "/a//b", "javascript:x", '/"><script>', "/a b", "a", "/", "/" + 99 * "x"],
)
def test_an_odd_prefix_is_passed_over(client: httpx.Client, prefix: str) -> None:
    for page in ("/", "/docs", "/openapi.json"):
        assert client.get(page, headers={"x-forwarded-prefix": prefix}).text == (
            client.get(page).text
        )


def test_a_prefix_like_a_route_is_told_apart_from_it(client: httpx.Client, post: Post) -> None:
    """``/variations/healthz`` of the proxy, with the prefix in it and without."""
    headers = {"x-forwarded-prefix": "/variations"}
    for path in ("/healthz", "/variations/healthz"):
        assert client.get(path, headers=headers).json() == {"status": "ok"}
    client.headers.update(headers)
    assert post().status_code == 200


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [
        (("10.0.0.0/8",), False),
        (("127.0.0.0/8",), True),
        (("*",), True),
        (("::1", "127.0.0.1"), True),
    ],
)
def test_only_trusted_proxies_are_believed(trusted: tuple[str, ...], believed: bool) -> None:
    app = create_app(Settings(trusted_proxies=trusted), FakeEngine(), FakeDecoders())
    with serving(app) as url:
        links = httpx.get(url, headers={"x-forwarded-prefix": PREFIX}).json()["links"]
    assert links["docs"] == (f"{PREFIX}/docs" if believed else "/docs")
