"""The real ``openai`` package as people use it, sync and async behind one face."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from openai import AsyncOpenAI, AsyncStream, OpenAI, RequestOptions, Stream
from openai.types import ImageEditStreamEvent, ImagesResponse, Model

T = TypeVar("T")

Seen = Callable[[ImageEditStreamEvent], None]
"""Called with each event as it comes."""


def _unnoticed(_event: ImageEditStreamEvent) -> None: ...


PATH = "/images/variations"
MULTIPART: RequestOptions = {"headers": {"Content-Type": "multipart/form-data"}}


class Sdk(Protocol):
    """What a client of the service can do."""

    def variation(self, image: bytes | list[bytes], **fields: Any) -> ImagesResponse: ...
    def stream(
        self, image: bytes, seen: Seen = ..., **fields: Any
    ) -> list[ImageEditStreamEvent]: ...
    def models(self) -> list[Model]: ...
    def model(self, name: str) -> Model: ...


@dataclass
class SyncSdk:
    """``OpenAI``, with ``options`` of its constructor, a new one for each call."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def _client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", **self.options})

    def variation(self, image: bytes | list[bytes], **fields: Any) -> ImagesResponse:
        with self._client() as client:
            # Typed as one file, and sent as `image[]` where it is a list.
            given: Any = image
            return client.images.create_variation(image=given, **fields)

    def stream(
        self, image: bytes, seen: Seen = _unnoticed, **fields: Any
    ) -> list[ImageEditStreamEvent]:
        events = []
        with self._client() as client:
            told = client.post(
                PATH,
                cast_to=object,
                body={"stream": True, **fields},
                files={"image": image},
                options=MULTIPART,
                stream=True,
                stream_cls=Stream[ImageEditStreamEvent],
            )
            for event in told:
                events.append(event)
                seen(event)
        return events

    def models(self) -> list[Model]:
        with self._client() as client:
            return list(client.models.list())

    def model(self, name: str) -> Model:
        with self._client() as client:
            return client.models.retrieve(name)


@dataclass
class AsyncSdk:
    """``AsyncOpenAI``, in an event loop for each call."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def _run(self, call: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        async def run() -> T:
            options = {"api_key": "none", **self.options}
            async with AsyncOpenAI(base_url=f"{self.url}/v1", **options) as client:
                return await call(client)

        return asyncio.run(run())

    def variation(self, image: bytes | list[bytes], **fields: Any) -> ImagesResponse:
        given: Any = image
        return self._run(lambda client: client.images.create_variation(image=given, **fields))

    def stream(
        self, image: bytes, seen: Seen = _unnoticed, **fields: Any
    ) -> list[ImageEditStreamEvent]:
        async def all_events(client: AsyncOpenAI) -> list[ImageEditStreamEvent]:
            told = await client.post(
                PATH,
                cast_to=object,
                body={"stream": True, **fields},
                files={"image": image},
                options=MULTIPART,
                stream=True,
                stream_cls=AsyncStream[ImageEditStreamEvent],
            )
            events = []
            async for event in told:
                events.append(event)
                seen(event)
            return events

        return self._run(all_events)

    def models(self) -> list[Model]:
        async def all_models(client: AsyncOpenAI) -> list[Model]:
            return [model async for model in client.models.list()]

        return self._run(all_models)

    def model(self, name: str) -> Model:
        return self._run(lambda client: client.models.retrieve(name))


SDKS: dict[str, Callable[..., Sdk]] = {"sync": SyncSdk, "async": AsyncSdk}
