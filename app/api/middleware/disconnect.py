"""Work that nobody waits for any more is cancelled."""

import asyncio
import select
import sys
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    The body must have been read: from then on, all there is to receive is the disconnect.
    Raises :class:`ClientDisconnect` then; in every case nothing runs on when this returns.
    """
    job = asyncio.create_task(work)
    gone = [asyncio.create_task(_disconnected(request.receive))]
    if transport := getattr(request.state, "transport", None):
        gone.append(asyncio.create_task(_hung_up(transport)))
    try:
        await asyncio.wait((job, *gone), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientDisconnect
        return job.result()
    finally:
        for task in (job, *gone):
            task.cancel()
        await asyncio.gather(job, *gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _hung_up(transport: asyncio.Transport) -> None:
    """Return when the other side has ended the connection, whatever it had sent before.

    uvicorn stops reading where a further request is behind this one, and sees no end then. Only
    Linux tells an end behind bytes that nobody has read.
    """
    hung_up = asyncio.Event()
    if sys.platform != "linux":
        await hung_up.wait()
    connection = transport.get_extra_info("socket")
    if transport.is_closing() or connection.fileno() < 0:
        return
    loop = asyncio.get_running_loop()
    try:
        poll = select.epoll()
    except OSError:  # no descriptor is left: then it is not noticed, and nobody is cut off
        await hung_up.wait()
    with poll:
        poll.register(connection.fileno(), select.EPOLLRDHUP)
        loop.add_reader(poll.fileno(), hung_up.set)
        try:
            await hung_up.wait()
        finally:
            loop.remove_reader(poll.fileno())
