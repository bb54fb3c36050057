"""Every Prometheus object of the service, in one class over an injected registry.

Names carry the prefix ``variations_`` and base units. Label values come from short fixed lists:
nothing a caller sends becomes a label.
"""

import math
from collections.abc import Callable, Mapping
from platform import python_version
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from app import __version__
from app.engine.process import Cause
from app.ipc.messages import DeviceUse, StageName, Stats, WorkStage
from app.parameters import ModelInfo, Parameters

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, unused

REFUSALS = ("queue_full", "quota", "deadline", "not_ready", "draining")

_UNREAD = ("", "")
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
            "Seconds from the headers of an HTTP request to the last byte of its answer.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._pictures = Counter(
            "variations_pictures_total",
            "Pictures by outcome. A refused request counts one, of no scheduler and size: they "
            "were never read.",
            ["outcome", "scheduler", "size"],
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
        self._first_step_seconds = Histogram(
            "variations_first_step_seconds",
            "Seconds from a request's acceptance by the engine to the start of its first step.",
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._active_rows = Gauge(
            "variations_active_rows",
            "UNet rows of the last step; 0 when there is nothing to do.",
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
            "Seconds of one step: one UNet call for all its rows, padded to a bucket. On a CPU "
            "every number of rows is a bucket: the label is the next power of two.",
            ["bucket"],
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "variations_stage_seconds",
            "Seconds an answered request spent in each stage: upload (its body arrives), read "
            "(becomes pixels), queue (all waiting before the first step), encode, denoise, decode, "
            "safety (checker), write (files).",
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
        self._steps = Counter(
            "variations_request_steps_total",
            "Steps that requests took part in: one for each request in each step.",
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
            "Requests that were, or whose like was, running in two deaths of a worker, and so are "
            "run alone.",
            registry=registry,
        )
        self._convictions = Counter(
            "variations_convicted_requests_total",
            "Requests that ended a worker which they had to themselves.",
            registry=registry,
        )
        self._device_bytes = Gauge(
            "variations_device_memory_bytes",
            "Memory of the GPU: used by tensors, reserved for them by torch, occupied by anybody, "
            "total. Of a CPU nothing is reported.",
            ["kind"],
            registry=registry,
        )
        self._device_busy = Gauge(
            "variations_device_busy_ratio",
            "Share of the last moments in which the GPU did something; NaN where NVML is silent.",
            registry=registry,
        )
        self._device_busy.set(math.nan)
        self._model = Info(
            "variations_model", "The checkpoint that is served, and how.", registry=registry
        )
        Info("variations_build", "The version that runs.", registry=registry).info(
            {"version": __version__, "python": python_version()}
        )
        self._pictures.labels("refused", *_UNREAD)
        for stage in get_args(StageName):
            self._stage_seconds.labels(stage)
        for reason in REFUSALS:
            self._refusals.labels(reason)
        for cause in get_args(Cause):
            self._restarts.labels(cause)
        for step in _WASTED:
            self._wasted_steps.labels(step)
        for stage in get_args(WorkStage):
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
        self._pictures.labels("refused", *_UNREAD).inc()
        self._refusals.labels(reason).inc()

    def pictures(self, parameters: Parameters, flagged: int) -> None:
        """A request was answered; ``flagged`` of its pictures were stopped."""
        self._count(parameters, "ok", parameters.n - flagged)
        self._count(parameters, "flagged", flagged)

    def failed(self, parameters: Parameters) -> None:
        """An accepted request's pictures could not be made."""
        self._count(parameters, "failed", parameters.n)

    def cancelled(self, parameters: Parameters) -> None:
        """An accepted request's caller went away, or its deadline passed."""
        self._count(parameters, "cancelled", parameters.n)

    def started(self, seconds: float) -> None:
        """A request's first step has begun, so long after its acceptance."""
        self._first_step_seconds.observe(seconds)

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

    def idle(self) -> None:
        """Nothing is under way, whatever the last step had."""
        self._active_rows.set(0)
        self._waiting_rows.set(0)

    def worker_up(self, up: bool) -> None:
        """The worker has become ready, or has stopped being so."""
        self._worker_up.set(up)
        if not up:  # nobody looks at the device now
            self._device_bytes.clear()
            self._device_busy.set(math.nan)

    def step(self, stats: Stats) -> None:
        """One step has ended."""
        self._step_seconds.labels(_power_of_two(stats.bucket)).observe(stats.seconds)
        self._active_rows.set(stats.rows)
        self._steps.inc(stats.requests)
        self._step_rows.observe(stats.rows)
        self._step_requests.observe(stats.requests)
        self._step_schedules.observe(stats.schedules)
        self._padding_rows.inc(stats.bucket - stats.rows)
        self._waiting_rows.set(stats.waiting_rows)
        self._row_cap.set(stats.cap)

    def stalled(self, stage: Literal["encode", "decode"], seconds: float) -> None:
        """The worker has encoded or decoded, and taken no step meanwhile."""
        self._stall_seconds.labels(stage).inc(seconds)

    def ran_out(self, stage: WorkStage) -> None:
        """Memory has run out."""
        self._out_of_memory.labels(stage).inc()

    def stages(self, seconds: Mapping[StageName, float]) -> None:
        """A request was answered; this is where its time went."""
        for stage, length in seconds.items():
            self._stage_seconds.labels(stage).observe(length)

    def device(self, use: DeviceUse) -> None:
        """The worker has looked at its GPU."""
        for kind in ("used", "reserved", "occupied", "total"):
            self._device_bytes.labels(kind).set(getattr(use, kind))
        self._device_busy.set(math.nan if use.busy is None else use.busy)

    def ready(self, model: ModelInfo, cap: int) -> None:
        """A worker has got ready to serve this model, with at most ``cap`` rows in a step."""
        self._row_cap.set(cap)
        self._model.info(
            {
                "id": model.id,
                "revision": model.revision or "",
                "device": model.device,
                "dtype": model.dtype,
                "safety_checker": "on" if model.safety_checker else "off",
            }
        )

    def _count(self, parameters: Parameters, outcome: str, pictures: int) -> None:
        size = f"{parameters.width}x{parameters.height}"
        self._pictures.labels(outcome, parameters.scheduler, size).inc(pictures)

    def _count_histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(name, documentation, buckets=_COUNTS, registry=self.registry)


def _power_of_two(number: int) -> int:
    """The smallest that is no less."""
    return 1 << (number - 1).bit_length()
