"""Types of the fixtures that post."""

from collections.abc import Callable

import httpx

Post = Callable[..., httpx.Response]
"""Posts a picture with these form fields."""
