"""LitServe, batching as its documentation shows: ``max_batch_size`` and ``batch_timeout``.

One worker. The time-out for a request is off (it is 30 s); a client that sends no more should not
be told that it failed.
"""

from typing import Any

import litserve

from benchmarks.peers.model import Answer, Request, batch, load, port

# Requests of a batch, and seconds to wait for more of them. Its documentation: raise the size until
# the throughput falls, and wait some hundredths of a second.
# `python -m benchmarks.peers.tune` tries others.
MOST_REQUESTS = 16
WAIT_SECONDS = 0.05


class Api(litserve.LitAPI):
    """A batch is split into what one call of the pipeline can do."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.model = load()

    def decode_request(self, request: dict[str, Any]) -> Request:
        """One request, from its JSON."""
        return Request.model_validate(request)

    def batch(self, inputs: list[Request]) -> list[Request]:
        """Requests are no tensors: a list stays a list."""
        return list(inputs)

    def predict(self, requests: list[Request]) -> list[Answer]:
        """Answer a batch."""
        return self.model(requests)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """A list stays a list here too."""
        return output

    def encode_response(self, output: Answer) -> dict[str, Any]:
        """One answer, as JSON."""
        return output.model_dump()


if __name__ == "__main__":
    api = Api(
        max_batch_size=batch(MOST_REQUESTS), batch_timeout=WAIT_SECONDS, api_path="/variations"
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=port(), generate_client_file=False, log_level="warning")
