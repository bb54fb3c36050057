"""Reading ``/metrics`` as Prometheus would."""

import time
from collections.abc import Callable, Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

WAIT_SECONDS = 30
_LOOK_AGAIN_SECONDS = 0.05  # metrics are rendered twenty times a second


def value(client: httpx.Client, name: str, labels: Mapping[str, str] | None = None) -> float:
    """The sum of the samples that have these labels, among others; 0 where there is none yet."""
    wanted = dict(labels or {}).items()
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and wanted <= sample.labels.items()
    )


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something becomes true that only another process can tell."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("it did not become true")
        time.sleep(_LOOK_AGAIN_SECONDS)
