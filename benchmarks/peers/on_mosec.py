"""mosec, batching as its documentation shows: ``max_batch_size`` and ``max_wait_time``.

One worker. The time-out for a request is far away (it is 3 s).
"""

import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.model import Request, batch, load, port

# Requests of a batch, and milliseconds to wait for more of them (mosec's own default).
# `python -m benchmarks.peers.tune` tries others.
MOST_REQUESTS = 32
WAIT_MILLISECONDS = 10


class Variations(Worker):
    """A batch is split into what one call of the pipeline can do. JSON is mosec's default."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch."""
        answers = self.model([Request.model_validate(one) for one in data])
        return [answer.model_dump() for answer in answers]


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port()), "--timeout", "3600000"]
    sys.argv += ["--log-level", "warning"]
    server = Server()
    server.append_worker(
        Variations,
        max_batch_size=batch(MOST_REQUESTS),
        max_wait_time=WAIT_MILLISECONDS,
        route="/variations",
    )
    server.run()
