"""Webhooks that do not behave."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from app.api.stored import webhooks
from app.api.stored.webhooks import Webhooks
from app.metrics.stored import StoreMetrics

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def serve(handler: Handler) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def of(origin: str) -> Webhooks:
    return Webhooks([origin], SECRET, StoreMetrics(CollectorRegistry()))


async def test_one_that_never_ends_its_head_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(webhooks, "DELAYS", ())

    sent, left = asyncio.Event(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"a: b\r\n")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.01)
        await close(writer)
        left.set()

    server, origin = await serve(drip)
    told = of(origin)

    async def tell() -> None:
        sent.set()

    told.tell(origin, "a", "{}", tell)
    async with asyncio.timeout(30):
        await sent.wait()
        await left.wait()
    await told.stop()
    server.close()


async def test_so_many_are_told_at_once_and_the_others_afterwards() -> None:
    open_now, most, enough = 0, 0, asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now >= webhooks.AT_ONCE:
            enough.set()
        await reader.readuntil(b"\r\n\r\n{}")
        await enough.wait()
        for _ in range(10):  # others would come now
            await asyncio.sleep(0)
        open_now -= 1
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await close(writer)

    server, origin = await serve(slow)
    told, left, over = of(origin), 3 * webhooks.AT_ONCE, asyncio.Event()

    async def tell() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    for number in range(left):
        told.tell(origin, str(number), "{}", tell)
    async with asyncio.timeout(60):
        await over.wait()
    assert most == webhooks.AT_ONCE
    await told.stop()
    server.close()
