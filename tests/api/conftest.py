"""A served application over a fake engine, with a client that talks to it over HTTP."""

from collections.abc import Iterator

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.serving import Served, serving


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The settings that a module's tests are served with; a module overrides it for others."""
    return Settings()


@pytest.fixture(scope="module")
def served(settings: Settings) -> Iterator[Served]:
    """One server for all tests of a module."""
    engine, decoders = FakeEngine(), FakeDecoders(settings)
    with serving(create_app(settings, engine, decoders)) as base:
        yield Served(base, engine, decoders)


@pytest.fixture
def engine(served: Served) -> FakeEngine:
    served.engine.reset()
    return served.engine


@pytest.fixture
def decoders(served: Served) -> FakeDecoders:
    served.decoders.reset()
    return served.decoders


@pytest.fixture
def url(served: Served, engine: FakeEngine, decoders: FakeDecoders) -> str:
    return served.url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
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
