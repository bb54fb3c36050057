"""The two clients: the same calls, with and without ``await``."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing, closing, suppress
from typing import Any, Self, Unpack

import httpx2

from app.client.answers import OnProgress, Variations
from app.client.call import Call
from app.client.requests import Fields, Picture, build

TIMEOUT = 600.0
"""Seconds for a request with all its tries, unless told otherwise."""

_SILENCE = 60.0
"""The service says something at least every 15 seconds."""


def _options(url: str, api_key: str | None) -> dict[str, Any]:
    base = httpx2.URL(url)
    if base.scheme not in ("http", "https") or not base.host:
        raise ValueError(f"The service's address is like http://127.0.0.1:8000, not {url!r}")
    return {
        "base_url": base,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx2.Timeout(_SILENCE, connect=10.0, pool=None),
        "limits": httpx2.Limits(max_connections=None),
    }


class Client:
    """A client of the service at ``url``; threads may share it.

    ``timeout`` is the seconds that a request may take with all its tries. Raises
    :class:`ValueError` for an address that is none.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = TIMEOUT) -> None:
        self._http = httpx2.Client(**_options(url, api_key))
        self._timeout = timeout

    def vary(
        self,
        picture: Picture | Sequence[Picture],
        *,
        on_progress: OnProgress | None = None,
        **fields: Unpack[Fields],
    ) -> Variations:
        """The variations of a picture, or of several mixed; ``on_progress`` is called with all that
        happens before.

        A service that is busy is asked again when it says so, and a connection that breaks is made
        again, within the timeout. Whatever ends this early cancels the request. Raises
        :class:`ClientError`, and :class:`OSError` for a file that cannot be read.
        """
        call = Call(build(self._http, picture, fields), self._timeout, on_progress)
        try:
            while call.answer is None:
                time.sleep(call.pause)
                with (
                    call.attempt() as request,
                    closing(self._http.send(request, stream=True)) as response,
                ):
                    if not call.is_stream(response):
                        response.read()
                        call.refused(response)
                    for event in httpx2.EventSource(response, max_event_size=None):
                        call.hear(event)
        finally:
            if call.answer is None and call.place:
                with suppress(httpx2.HTTPError):
                    self._http.delete(call.place)
        return call.answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio: many requests at once share the service's steps."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = TIMEOUT) -> None:
        self._http = httpx2.AsyncClient(**_options(url, api_key))
        self._timeout = timeout

    async def vary(
        self,
        picture: Picture | Sequence[Picture],
        *,
        on_progress: OnProgress | None = None,
        **fields: Unpack[Fields],
    ) -> Variations:
        """As :meth:`Client.vary`; ``on_progress`` is called in the event loop."""
        request = await asyncio.to_thread(build, self._http, picture, fields)
        call = Call(request, self._timeout, on_progress)
        try:
            while call.answer is None:
                await asyncio.sleep(call.pause)
                with call.attempt() as request:
                    async with aclosing(await self._http.send(request, stream=True)) as response:
                        if not call.is_stream(response):
                            await response.aread()
                            call.refused(response)
                        async for event in httpx2.EventSource(response, max_event_size=None):
                            call.hear(event)
        finally:
            if call.answer is None and call.place:
                with suppress(httpx2.HTTPError):
                    await self._http.delete(call.place)
        return call.answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
