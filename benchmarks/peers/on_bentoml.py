"""BentoML with adaptive batching, as its documentation shows: ``batchable``, with two bounds.

One worker, and as its documentation says a ``concurrency`` that is the size of a batch. The
dispatcher learns how long batches take and chooses their size; what it predicts to take longer than
``max_latency_ms`` it refuses with 503, so that is what the time-out for a request is elsewhere.
"""

import bentoml

from benchmarks.peers.model import Answer, Request, batch, load

# Requests of a batch; `python -m benchmarks.peers.tune` tries others.
MOST_REQUESTS = 16
LONGEST_MILLISECONDS = 600_000


@bentoml.service(workers=1, traffic={"timeout": 3600, "concurrency": batch(MOST_REQUESTS)})
class Variations:
    """A batch is split into what one call of the pipeline can do."""

    def __init__(self) -> None:
        self.model = load()

    @bentoml.api(
        batchable=True, max_batch_size=batch(MOST_REQUESTS), max_latency_ms=LONGEST_MILLISECONDS
    )
    def variations(self, inputs: list[Request]) -> list[Answer]:
        """Answer a batch; BentoML's clients post a list of one."""
        return self.model(inputs)
