"""Counts of the stored requests."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

Delivery = Literal["delivered", "failed", "given_up"]
Repeat = Literal["joined", "answered", "other_form"]


class StoreMetrics:
    """Counts of the stored requests, of their webhooks, and of repeated idempotency keys."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Gauge(
            "variations_stored_requests",
            "Requests in the store: unfinished, or ended, whose results are kept for a while.",
            ["state"],
            registry=registry,
        )
        self._bytes = Gauge(
            "variations_stored_bytes",
            "Bytes of the requests in the store and of their results.",
            registry=registry,
        )
        counter = partial(Counter, registry=registry)
        self._deliveries = counter(
            "variations_webhook_deliveries_total",
            "Attempts to tell a webhook, by outcome.",
            ["outcome"],
        )
        self._repeats = counter(
            "variations_idempotent_repeats_total",
            "Requests that repeated an idempotency key, by what they met.",
            ["met"],
        )
        for state in ("unfinished", "ended"):
            self._requests.labels(state)
        for outcome in get_args(Delivery):
            self._deliveries.labels(outcome)
        for met in get_args(Repeat):
            self._repeats.labels(met)

    def watch(
        self,
        unfinished: Callable[[], int],
        ended: Callable[[], int],
        stored_bytes: Callable[[], int],
    ) -> None:
        """Ask at every scrape for what is in the store."""
        self._requests.labels("unfinished").set_function(unfinished)
        self._requests.labels("ended").set_function(ended)
        self._bytes.set_function(stored_bytes)

    def delivery(self, outcome: Delivery) -> None:
        """A webhook was told, was not, or will not be tried again."""
        self._deliveries.labels(outcome).inc()

    def repeated(self, met: Repeat) -> None:
        """A request repeated an idempotency key."""
        self._repeats.labels(met).inc()
