"""A browser for the tests of a module."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """No longer than a module: as long as it is there, this thread has an event loop."""
    with chromium() as browser:
        yield browser
