"""Every Prometheus object of the service, in one class over an injected registry.

Names carry the prefix ``variations_`` and base units. Label values come from short fixed lists:
nothing a caller sends becomes a label.
"""

from collections.abc import Callable
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from app.engine.messages import Stats, Timings
from app.engine.process import Cause

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, unused

OUTCOMES = ("ok", "flagged", "failed", "cancelled", "refused")
STAGES = ("queue", "encode", "denoise", "decode")
REFUSALS = ("queue_full", "quota", "deadline", "not_ready", "draining")

_WASTED = ("first", "second", "later")
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """What the service counts; the engine and the HTTP layer call its methods."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "variations_requests_total",
            "HTTP requests by route and status; 499 is a client that went away.",
            ["route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "variations_request_seconds",
            "Seconds from the first byte of an HTTP request to the last of its answer.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._pictures = Counter(
            "variations_pictures_total",
            "Pictures by outcome; a refused request counts one, since its n was never read.",
            ["outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "variations_refusals_total",
            "Requests turned away though nothing was wrong with them, by reason.",
            ["reason"],
            registry=registry,
        )
        self._queue = Gauge(
            "variations_queue_requests",
            "Requests the engine has accepted and not yet answered.",
            registry=registry,
        )
        self._waiting_rows = Gauge(
            "variations_waiting_rows",
            "Rows of admitted samples that did not take part in the last step.",
            registry=registry,
        )
        self._step_rows = self._count_histogram(
            "variations_step_rows", "UNet rows in one step, without padding."
        )
        self._step_requests = self._count_histogram(
            "variations_step_requests", "Distinct requests among the rows of one step."
        )
        self._step_schedules = self._count_histogram(
            "variations_step_schedules",
            "Distinct (scheduler, number of steps) pairs among the rows of one step.",
        )
        self._padding_rows = Counter(
            "variations_step_padding_rows_total",
            "Rows computed only to fill a step up to its bucket.",
            registry=registry,
        )
        self._step_seconds = Histogram(
            "variations_step_seconds",
            "Seconds of one step: one UNet call for all its rows.",
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "variations_stage_seconds",
            "Seconds an answered request spent in each stage.",
            ["stage"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._stall_seconds = Counter(
            "variations_stall_seconds_total",
            "Seconds in which the worker took no step because it encoded or decoded.",
            ["stage"],
            registry=registry,
        )
        self._row_cap = Gauge(
            "variations_row_cap",
            "Most rows that a step may have now; falls when memory runs out.",
            registry=registry,
        )
        self._out_of_memory = Counter(
            "variations_out_of_memory_total",
            "Times that memory ran out, by stage; what ran was split and run again.",
            ["stage"],
            registry=registry,
        )
        self._wasted_steps = Counter(
            "variations_wasted_steps_total",
            "Steps that a request took part in after it was cancelled, by which one it was.",
            ["step"],
            registry=registry,
        )
        self._worker_up = Gauge(
            "variations_worker_up", "1 while the worker takes requests.", registry=registry
        )
        self._restarts = Counter(
            "variations_worker_restarts_total",
            "Workers that ended and were replaced, by cause.",
            ["cause"],
            registry=registry,
        )
        self._replays = Counter(
            "variations_replayed_requests_total",
            "Requests that a dead worker had, and that are run again.",
            registry=registry,
        )
        self._suspects = Counter(
            "variations_suspect_requests_total",
            "Requests that were running in two deaths of a worker, and so are run alone.",
            registry=registry,
        )
        self._convictions = Counter(
            "variations_convicted_requests_total",
            "Requests that ended a worker which they had to themselves.",
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._pictures.labels(outcome)
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for reason in REFUSALS:
            self._refusals.labels(reason)
        for cause in get_args(Cause):
            self._restarts.labels(cause)
        for step in _WASTED:
            self._wasted_steps.labels(step)
        for stage in ("encode", "step", "decode"):
            self._out_of_memory.labels(stage)

    def foresee(self, wait: Callable[[], float]) -> None:
        """Ask ``wait`` at every scrape for the seconds that a request would wait to start."""
        Gauge(
            "variations_predicted_wait_seconds",
            "Seconds that a request accepted now would wait for its first step.",
            registry=self.registry,
        ).set_function(wait)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request has ended; ``route`` is a path template or ``other``."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was turned away for one of :data:`REFUSALS`."""
        self._pictures.labels("refused").inc()
        self._refusals.labels(reason).inc()

    def pictures(self, ok: int, flagged: int) -> None:
        """A request was answered with ``ok`` pictures and ``flagged`` stopped ones."""
        self._pictures.labels("ok").inc(ok)
        self._pictures.labels("flagged").inc(flagged)

    def failed(self, pictures: int = 1) -> None:
        """An accepted request's pictures could not be made."""
        self._pictures.labels("failed").inc(pictures)

    def cancelled(self, pictures: int = 1) -> None:
        """An accepted request's caller went away, or its deadline passed."""
        self._pictures.labels("cancelled").inc(pictures)

    def wasted_step(self, number: int) -> None:
        """A cancelled request took part in a step all the same, for the ``number``-th time."""
        self._wasted_steps.labels(_WASTED[min(number, len(_WASTED)) - 1]).inc()

    def restarted(self, cause: Cause) -> None:
        """A worker has ended."""
        self._restarts.labels(cause).inc()

    def replayed(self, requests: int) -> None:
        """A worker has ended that had so many requests."""
        self._replays.inc(requests)

    def suspected(self, requests: int) -> None:
        """So many requests will be run alone."""
        self._suspects.inc(requests)

    def convicted(self) -> None:
        """A request ended a worker that it had to itself."""
        self._convictions.inc()

    def queue(self, requests: int) -> None:
        """The number of accepted and unanswered requests has changed."""
        self._queue.set(requests)

    def worker_up(self, up: bool) -> None:
        """The worker has become ready, or has stopped being so."""
        self._worker_up.set(up)

    def step(self, stats: Stats) -> None:
        """One step has ended."""
        self._step_seconds.observe(stats.seconds)
        self._step_rows.observe(stats.rows)
        self._step_requests.observe(stats.requests)
        self._step_schedules.observe(stats.schedules)
        self._padding_rows.inc(stats.bucket - stats.rows)
        self._waiting_rows.set(stats.waiting_rows)
        self._row_cap.set(stats.cap)
        self._stall_seconds.labels("encode").inc(stats.encode_seconds)
        self._stall_seconds.labels("decode").inc(stats.decode_seconds)
        for stage in stats.out_of_memory:
            self._out_of_memory.labels(stage).inc()

    def stages(self, timings: Timings) -> None:
        """A request was answered; this is where its time went."""
        for stage in STAGES:
            self._stage_seconds.labels(stage).observe(getattr(timings, stage))

    def _count_histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=_COUNTS, registry=self.registry)
