"""Counts of the HTTP layer and of the decoder processes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.ipc.messages import StageName
from app.pictures.sandbox import Reason

REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_NO_ROOM = ("queue_full", "share", "quota", "uploads")
REFUSALS = (*_NO_ROOM, "deadline", "own_deadline", "not_ready", "draining")


class HttpMetrics:
    """Counts of the HTTP layer: requests, refusals, and the time of answered requests."""

    def __init__(self, registry: CollectorRegistry, pictures: Counter) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=REQUEST_SECONDS, registry=registry)
        self._refused = pictures.labels("refused", "", "")
        self._requests = counter(
            "variations_requests_total",
            "HTTP requests by route and status; 499 is a client that disconnected.",
            ["route", "status"],
        )
        self._request_seconds = histogram(
            "variations_request_seconds",
            "Seconds from the headers of an HTTP request to the last byte of its answer.",
            ["route"],
        )
        self._refusals = counter(
            "variations_refusals_total",
            "Requests refused, or at their caller's own deadline stopped, by reason.",
            ["reason"],
        )
        self._stage_seconds = histogram(
            "variations_stage_seconds",
            "Seconds an answered request spent in each stage: upload (its body arrives), read "
            "(decoded and fitted to the encoder's input), queue (all waiting before the first "
            "step), encode, denoise, decode, safety (checker), write (files).",
            ["stage"],
        )
        uploads = "Requests whose forms are arriving."
        self._uploads = Gauge("variations_upload_requests", uploads, registry=registry)
        for reason in REFUSALS:
            self._refusals.labels(reason)
        for stage in get_args(StageName):
            self._stage_seconds.labels(stage)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request has ended; ``route`` is a path template or ``other``."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, reason: str, pictures: int = 1) -> None:
        """A request was refused for one of :data:`REFUSALS`; 0 ``pictures`` if it was stopped."""
        self._refused.inc(pictures)
        self._refusals.labels(reason).inc()

    def watch(self, uploads: Callable[[], int]) -> None:
        """Ask ``uploads`` at every scrape for the requests whose forms are arriving."""
        self._uploads.set_function(uploads)

    def stages(self, seconds: Mapping[StageName, float]) -> None:
        """A request was answered after ``seconds`` in each of its stages."""
        for stage, length in seconds.items():
            self._stage_seconds.labels(stage).observe(length)


class DecoderMetrics:
    """Counts of the decoder processes, which turn uploads into the encoder's input."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waiting = Gauge(
            "variations_decoder_queue_requests",
            "Requests whose upload waits for a decoder process.",
            registry=registry,
        )
        self._failures = Counter(
            "variations_decoder_failures_total",
            "Uploads whose decoder process was ended by a limit, or ended by itself, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(Reason):
            self._failures.labels(reason)

    def failed(self, reason: Reason) -> None:
        """A decoder process ended before it had decoded its upload."""
        self._failures.labels(reason).inc()

    def watch(self, waiting: Callable[[], int]) -> None:
        """Ask ``waiting`` at every scrape for the uploads that wait for a decoder process."""
        self._waiting.set_function(waiting)
