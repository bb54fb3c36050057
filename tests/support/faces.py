"""``app.client`` as people use it, sync and async behind one face."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.client import AsyncClient, Client, Variations


class Face(Protocol):
    """What both clients can do."""

    def vary(self, picture: Any, **fields: Any) -> Variations: ...


@dataclass
class SyncFace:
    """``Client``, with ``options`` of its constructor, a new one for each call."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def vary(self, picture: Any, **fields: Any) -> Variations:
        with Client(self.url, **self.options) as client:
            return client.vary(picture, **fields)


@dataclass
class AsyncFace:
    """``AsyncClient``, in an event loop for each call."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def vary(self, picture: Any, **fields: Any) -> Variations:
        async def vary() -> Variations:
            async with AsyncClient(self.url, **self.options) as client:
                return await client.vary(picture, **fields)

        return asyncio.run(vary())


FACES: dict[str, Callable[..., Face]] = {"sync": SyncFace, "async": AsyncFace}
