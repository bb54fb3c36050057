"""A served application over a fake engine, with a client that talks to it over HTTP."""

import io
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.api.application import create_app
from app.settings import Settings
from tests.api.fakes import FakeEngine
from tests.api.serving import serving


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


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small photograph-like PNG."""
    return picture_file("PNG")


def picture_file(file_format: str, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture whose four quarters are red, green, blue and grey, as a file."""
    file = io.BytesIO()
    Image.fromarray(quarters(size)).save(file, format=file_format)
    return file.getvalue()


def quarters(size: tuple[int, int] = (40, 30)) -> NDArray[np.uint8]:
    width, height = size
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 40)
    pixels[height // 2 :, : width // 2] = (40, 50, 210)
    return pixels


Post = Callable[..., httpx.Response]


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
