"""Ways in which one caller can hurt the others: ``python -m tests.support.attacks NAME URL KEY``.

Each goes on until its process is killed.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
from PIL import Image

from tests.support.bombs import saved, slow_jpeg, tiff_of_one_tall_tile_many_times, tiled_tiff
from tests.support.load import photo

Attack = Callable[[str, str], Coroutine[None, None, None]]

ATTACKS: dict[str, Attack] = {}


def attack(one: Attack) -> Attack:
    ATTACKS[one.__name__.replace("_", " ")] = one
    return one


async def for_ever(act: Callable[[], Awaitable[object]], at_once: int, pause: float = 0.0) -> None:
    """Do it again and again, so many at once; each pauses for so many seconds in between."""

    async def one() -> None:
        while True:
            with suppress(OSError, httpx.TransportError):
                await act()
            await asyncio.sleep(pause)

    await asyncio.gather(*(one() for _ in range(at_once)))


async def post_for_ever(
    url: str, key: str, file: bytes, at_once: int, pause: float = 0.0, **fields: str
) -> None:
    """Post this picture; waits for each answer."""
    headers = {"authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits, headers=headers) as client:

        async def post() -> None:
            await client.post(f"{url}/variations", files={"image": ("a", file)}, data=fields)

        await for_ever(post, at_once, pause)


async def send(url: str, *pieces: bytes, hold: float = 0.0, reading: bool = False) -> None:
    """Send on a connection of its own, then leave it after ``hold`` seconds."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if reading:
            await reader.read(2**16)
        await asyncio.sleep(hold)
    finally:
        writer.transport.abort()


def head(*lines: str, method: str = "POST", path: str = "/variations") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", "")).encode()


async def stream(url: str, first: bytes, piece: bytes, per_second: float) -> None:
    """A head, then the same piece for ever; so many bytes a second."""
    address = urlsplit(url)
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(first)
                while True:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(len(piece) / per_second)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.1)


FORM = "content-type: multipart/form-data; boundary=x"


@attack
async def tiles_of_many_scans(url: str, key: str) -> None:
    """Two TIFFs of one progressive JPEG of 95 scans, many times over."""
    data = saved(Image.new("L", (1024, 1024)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    jpeg = data[:-2] + scan * 85 + data[-2:]
    await post_for_ever(url, key, tiled_tiff((4096, 4096), (1024, 1024), jpeg, 7), 2)


@attack
async def tall_tiles(url: str, key: str) -> None:
    """TIFFs of 4,096 tiles that are all the same Deflate stream."""
    await post_for_ever(url, key, tiff_of_one_tall_tile_many_times(2**21), 2)


@attack
async def twelve_large_pictures(url: str, key: str) -> None:
    """Honest pictures of 49 megapixels and 60 scans, twelve at once."""
    await post_for_ever(url, key, slow_jpeg(), 12)


@attack
async def tiny_chunks(url: str, key: str) -> None:
    """Three bodies in chunks of one byte, 600 KB/s each, without a key."""
    del key
    first = head("transfer-encoding: chunked", FORM)
    pieces = (stream(url, first, b"1\r\nx\r\n" * 1000, 600_000) for _ in range(3))
    await asyncio.gather(*pieces)


@attack
async def a_head_without_end(url: str, key: str) -> None:
    """One header that grows for ever."""
    del key
    await stream(url, b"GET /healthz HTTP/1.1\r\nx-long: ", b"a" * 2**16, 20e6)


@attack
async def a_refused_body_without_end(url: str, key: str) -> None:
    """A body that was refused for want of a key, and goes on."""
    del key
    await stream(url, head(f"content-length: {10**6}", FORM), b"a" * 2**16, 20e6)


@attack
async def heads_without_bodies(url: str, key: str) -> None:
    """As many uploads as the queue has places, none of which sends a byte."""
    request = head(f"authorization: Bearer {key}", "content-length: 1000", FORM)
    await for_ever(lambda: send(url, request, hold=1.0), 80)


@attack
async def asking_every_20_ms(url: str, key: str) -> None:
    """Three callers, each on a new connection every time, who do not wait as told."""
    posts = set()

    async def ask() -> None:
        posts.add(asyncio.create_task(asyncio.wait_for(one_post(url, key), 60)))
        posts.difference_update({post for post in posts if post.done()})
        await asyncio.sleep(0.02)

    await for_ever(ask, 3)


async def one_post(url: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(timeout=60, headers=headers) as client:
            fields = {"n": "2", "num_inference_steps": "20"}
            await client.post(f"{url}/variations", files={"image": ("a", photo())}, data=fields)


@attack
async def refused_with_a_long_queue(url: str, key: str) -> None:
    """A hundred at once, so that most are refused, each with a prediction.

    Those that are not are honest work, which is done in the order of its arrival.
    """
    await post_for_ever(url, key, photo(), 100, 0.5, num_inference_steps="50")


@attack
async def leaving_behind_a_further_request(url: str, key: str) -> None:
    """Full requests for eight pictures, a pipelined one behind each, and gone."""
    files = {"image": ("a.png", photo())}
    fields = {"n": "8", "num_inference_steps": "100"}
    request = httpx.Request("POST", f"{url}/variations", files=files, data=fields)
    lines = [f"{name}: {text}" for name, text in request.headers.items() if name != "host"]
    whole = head(f"authorization: Bearer {key}", *lines) + request.read()
    further = head(method="GET", path="/healthz")
    await for_ever(lambda: send(url, whole, further, hold=0.1), 4, 2.0)


@attack
async def deadlines_of_nothing(url: str, key: str) -> None:
    """X-Request-Timeout: 0.0001."""
    headers = {"authorization": f"Bearer {key}", "x-request-timeout": "0.0001"}
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        files = {"image": ("a", photo())}
        await for_ever(lambda: client.post(f"{url}/variations", files=files), 4, 0.02)


@attack
async def bad_chunks(url: str, key: str) -> None:
    """A chunk that is none behind a request that is refused."""
    del key
    request = head("transfer-encoding: chunked", FORM) + b"zz\r\nno chunk\r\n"
    await for_ever(lambda: send(url, request, reading=True), 4, 0.02)


@attack
async def unread_pipelines(url: str, key: str) -> None:
    """16 connections that ask for /metrics a thousand times each and read nothing."""
    del key
    requests = head(method="GET", path="/metrics") * 1000

    async def pipeline() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(send(url, requests, hold=2.0), 4.0)

    await for_ever(pipeline, 16)


@attack
async def lines_for_an_unread_log(url: str, key: str) -> None:
    """Requests for nothing, a line in the log for each, which nobody reads."""
    del key
    async with httpx.AsyncClient(timeout=60) as client:
        await for_ever(lambda: client.get(f"{url}/nothing"), 4, 0.01)


if __name__ == "__main__":
    socket.setdefaulttimeout(60)
    name, at, key_given = sys.argv[1:]
    asyncio.run(ATTACKS[name](at, key_given))
