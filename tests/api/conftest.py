"""A served application over a fake engine, with a client that talks to it over HTTP."""

from collections.abc import Iterator

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.serving import serving


@pytest.fixture(scope="module")
def settings() -> Settings:
    """What a module's tests are served with; a module overrides it for others."""
    return Settings()


@pytest.fixture(scope="module")
def served(settings: Settings) -> Iterator[tuple[str, FakeEngine]]:
    """One server for all tests of a module."""
    engine = FakeEngine()
    with serving(create_app(settings, engine)) as base:
        yield base, engine


@pytest.fixture
def engine(served: tuple[str, FakeEngine]) -> FakeEngine:
    served[1].reset()
    return served[1]


@pytest.fixture
def url(served: tuple[str, FakeEngine], engine: FakeEngine) -> str:
    return served[0]


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def post(client: httpx.Client, png: bytes) -> Post:
    """Post a picture with these form fields."""

    def _post(image: bytes = png, **fields: object) -> httpx.Response:
        return client.post(
            "/variations",
            files={"image": ("picture.png", image)},
            data={name: str(value) for name, value in fields.items()},
        )

    return _post
