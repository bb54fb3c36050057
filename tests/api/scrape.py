"""Reading ``/metrics`` as Prometheus would."""

import time
from collections.abc import Callable, Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

WAIT_SECONDS = 30
_LOOK_AGAIN_SECONDS = 0.02


def value(client: httpx.Client, name: str, labels: Mapping[str, str] | None = None) -> float:
    """The value of one sample, 0 where it does not exist yet."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels == dict(labels or {}):
                return sample.value
    return 0.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something becomes true that only another process can tell."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("it did not become true")
        time.sleep(_LOOK_AGAIN_SECONDS)
