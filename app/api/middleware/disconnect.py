"""Work that nobody waits for any more is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    The body must have been read: from then on, all there is to receive is the disconnect.
    Raises :class:`ClientDisconnect` then; in every case nothing runs on when this returns.
    """

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    job, gone = asyncio.create_task(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientDisconnect
        return job.result()
    finally:
        job.cancel()
        gone.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)
