"""FastAPI and a lock: what most write first. One request at a time, in the order of arrival.

A pipeline of diffusers must not be called from two threads at once, so there is a lock around it;
the call runs in a thread, so that the server goes on accepting. There is nothing to be tuned.
"""

import asyncio

from benchmarks.peers import web
from benchmarks.peers.model import Answer, Model, Request, load


def handler(model: Model) -> web.Handler:
    """Answer by a call of the pipeline for each request."""
    lock = asyncio.Lock()

    async def variations(request: Request) -> Answer:
        async with lock:
            [answer] = await asyncio.to_thread(model, [request])
        return answer

    return variations


if __name__ == "__main__":
    web.serve(handler(load()))
