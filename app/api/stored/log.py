"""What was told of a stored request, for readers that come and go."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from app.api import schemas
from app.api.renderers.progress import Told
from app.errors import VariationsError


class Log:
    """The events of a stored request: all pictures, and of progress and previews the last ones.

    Events are numbered, the first one ``before + 1``. It ends with or without an error.
    """

    def __init__(self, before: int = 0) -> None:
        self.last = before
        """The number of the last event."""
        self.error: VariationsError | None = None
        self.ended = False
        self._told: dict[str, Told] = {}
        self._news = asyncio.Event()

    def tell(self, told: Told) -> None:
        """A further event; it has a number already if it was stored."""
        self.last = told.number or self.last + 1
        name = told.name
        match told.data:
            case schemas.Preview(index=index):
                name = f"preview {index}"
            case schemas.Variation(index=index):
                self._told.pop(f"preview {index}", None)
                name = f"picture {index}"
        self._told.pop(name, None)  # so that it is behind what came before it
        self._told[name] = replace(told, number=self.last)
        self._news.set()

    def end(self, error: VariationsError | None = None) -> None:
        """Nothing more will be told."""
        self.ended, self.error = True, error
        self._news.set()

    def latest(self, name: str) -> Any:
        """The data of the last event of this name, ``None`` if it has not been told."""
        told = self._told.get(name)
        return told and told.data

    def pictures(self) -> list[tuple[int, schemas.Variation]]:
        """The pictures so far in their order, each with the number of its event."""
        found = [
            (one.number or 0, one.data)
            for one in self._told.values()
            if isinstance(one.data, schemas.Variation)
        ]
        return sorted(found, key=lambda pair: pair[1].index)

    async def read(self, after: int = 0) -> AsyncGenerator[Told, None]:
        """The events with higher numbers than this, up to the end; raises the error, if any."""
        while True:
            newer = [one for one in self._told.values() if (one.number or 0) > after]
            for one in newer:
                after = one.number or 0
                yield one
            if newer:
                continue  # meanwhile there may be more
            if self.ended:
                break
            self._news.clear()
            await self._news.wait()
        if self.error:
            raise self.error
