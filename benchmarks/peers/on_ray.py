"""Ray Serve with ``@serve.batch``, as its guide to dynamic request batching shows.

One replica. ``max_ongoing_requests`` is above all that is sent, as that guide says it must be
above the size of a batch.
"""

import asyncio
import os
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request as HttpRequest

from benchmarks.peers.model import Request, batch, load, port

# Requests of a batch, and seconds to wait for more of them (Ray's own default).
# `python -m benchmarks.peers.tune` tries others.
MOST_REQUESTS = 16
WAIT_SECONDS = 0.01


class Variations:
    """A batch is split into what one call of the pipeline can do."""

    def __init__(self) -> None:
        self.model = load()

    @serve.batch(max_batch_size=batch(MOST_REQUESTS), batch_wait_timeout_s=WAIT_SECONDS)
    async def answers(self, requests: list[Request]) -> list[dict[str, Any]]:
        """Answer a batch, in a thread, so that the replica goes on accepting."""
        answers = await asyncio.to_thread(self.model, requests)
        return [answer.model_dump() for answer in answers]

    async def __call__(self, http: HttpRequest) -> dict[str, Any]:
        """Answer one request."""
        answer: dict[str, Any] = await self.answers(Request.model_validate(await http.json()))
        return answer


DEPLOYMENT = serve.deployment(max_ongoing_requests=10_000)(Variations)

if __name__ == "__main__":
    # Ray gives a replica as many threads as it has whole processors, unless this says it.
    threads = {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port(), "request_timeout_s": 3600})
    application = DEPLOYMENT.options(
        ray_actor_options={"runtime_env": {"env_vars": threads}}
    ).bind()
    serve.run(application, route_prefix="/variations")
    while True:
        time.sleep(3600)
