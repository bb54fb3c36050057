"""Counts of the engine: of its requests, of the steps, and of the worker process."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from app.engine.process import Cause
from app.ipc.messages import DeviceUse, Measured, StepStats, UNetKind, WorkStage
from app.metrics.http import REQUEST_SECONDS
from app.parameters import ModelInfo, Parameters

_WASTED = ("first", "second", "later")
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class _RequestMetrics:
    """Counts of the requests that the engine has."""

    def __init__(self, registry: CollectorRegistry, pictures: Counter) -> None:
        gauge = partial(Gauge, registry=registry)
        self._pictures = pictures
        self._queue = gauge("variations_queue_requests", "Requests accepted and not yet answered.")
        wait = "Seconds that a request accepted now would wait for its first step."
        self._predicted_wait = gauge("variations_predicted_wait_seconds", wait)
        self._first_step_seconds = Histogram(
            "variations_first_step_seconds",
            "Seconds from a request's acceptance by the engine to the start of its first step.",
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._near_duplicates = Counter(
            "variations_near_duplicates_total",
            "Pictures of answered requests that are near-copies of training pictures; 0 where "
            "there is no index of these.",
            registry=registry,
        )
        self._wasted_steps = Counter(
            "variations_wasted_steps_total",
            "Steps that a request took part in after it was cancelled, by their number.",
            ["step"],
            registry=registry,
        )
        for step in _WASTED:
            self._wasted_steps.labels(step)

    def predict_wait(self, wait: Callable[[], float]) -> None:
        """Ask ``wait`` at every scrape for the seconds that a request would wait to start."""
        self._predicted_wait.set_function(wait)

    def queue(self, requests: int) -> None:
        """The number of accepted and unanswered requests has changed."""
        self._queue.set(requests)

    def started(self, seconds: float) -> None:
        """A request's first step has begun, ``seconds`` after its acceptance."""
        self._first_step_seconds.observe(seconds)

    def pictures(self, parameters: Parameters, flagged: int) -> None:
        """A request was answered; ``flagged`` of its pictures were stopped."""
        self._count(parameters, "ok", parameters.n - flagged)
        self._count(parameters, "flagged", flagged)

    def near_duplicates(self, pictures: int) -> None:
        """So many pictures of an answered request are near-copies of training pictures."""
        self._near_duplicates.inc(pictures)

    def failed(self, parameters: Parameters) -> None:
        """An accepted request's pictures could not be made."""
        self._count(parameters, "failed", parameters.n)

    def cancelled(self, parameters: Parameters) -> None:
        """An accepted request's client disconnected, or its deadline passed."""
        self._count(parameters, "cancelled", parameters.n)

    def wasted_step(self, number: int) -> None:
        """A cancelled request took part in a step, for the ``number``-th time (from 1)."""
        self._wasted_steps.labels(_WASTED[min(number, len(_WASTED)) - 1]).inc()

    def _count(self, parameters: Parameters, outcome: str, pictures: int) -> None:
        size = f"{parameters.width}x{parameters.height}"
        self._pictures.labels(outcome, parameters.scheduler, size).inc(pictures)


class _StepMetrics:
    """Counts of the worker's steps, and of the time in which it takes none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        counter = partial(Counter, registry=registry)
        count_histogram = partial(Histogram, buckets=_COUNTS, registry=registry)
        self._active_rows = gauge(
            "variations_active_rows", "UNet rows of the last step; 0 when there is no work."
        )
        self._waiting_rows = gauge(
            "variations_waiting_rows", "Rows of samples that were left out of the last step."
        )
        self._step_rows = count_histogram(
            "variations_step_rows", "UNet rows in one step, without padding."
        )
        self._step_requests = count_histogram(
            "variations_step_requests", "Distinct requests among the rows of one step."
        )
        self._step_schedules = count_histogram(
            "variations_step_schedules",
            "Distinct (scheduler, number of steps) pairs among the rows of one step.",
        )
        self._step_seconds = Histogram(
            "variations_step_seconds",
            "Seconds of one step: one UNet call for all its rows, padded to a bucket. On a CPU "
            "every number of rows is a bucket: the label is the next power of two.",
            ["bucket"],
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._steps = counter(
            "variations_request_steps_total",
            "Steps that requests took part in: one for each request in each step.",
        )
        self._padding_rows = counter(
            "variations_step_padding_rows_total", "Rows that only fill a step up to its bucket."
        )
        self._row_cap = gauge(
            "variations_row_cap", "Most rows of a step for now; falls when memory runs out."
        )
        self._stall_seconds = counter(
            "variations_stall_seconds_total",
            "Seconds in which the worker took no step because it encoded or decoded.",
            ["stage"],
        )
        self._out_of_memory = counter(
            "variations_out_of_memory_total",
            "Times that memory ran out, by stage; the work was split and run again.",
            ["stage"],
        )
        for stage in get_args(WorkStage):
            self._out_of_memory.labels(stage)

    def step(self, stats: StepStats) -> None:
        """One step has ended."""
        self._active_rows.set(stats.rows)
        self._waiting_rows.set(stats.waiting_rows)
        self._step_rows.observe(stats.rows)
        self._step_requests.observe(stats.requests)
        self._step_schedules.observe(stats.schedules)
        power_of_two = 1 << (stats.bucket - 1).bit_length()
        self._step_seconds.labels(power_of_two).observe(stats.seconds)
        self._steps.inc(stats.requests)
        self._padding_rows.inc(stats.bucket - stats.rows)
        self._row_cap.set(stats.cap)

    def idle(self) -> None:
        """No request is left, so no row is active or waits."""
        self._active_rows.set(0)
        self._waiting_rows.set(0)

    def stalled(self, stage: Literal["encode", "decode"], seconds: float) -> None:
        """The worker has encoded or decoded for ``seconds``, and taken no step meanwhile."""
        self._stall_seconds.labels(stage).inc(seconds)

    def ran_out(self, stage: WorkStage) -> None:
        """Memory has run out in this stage."""
        self._out_of_memory.labels(stage).inc()


class _WorkerMetrics:
    """Counts of the worker process: its state, its ends, its device and its model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        counter = partial(Counter, registry=registry)
        self._worker_up = gauge("variations_worker_up", "1 while the worker takes requests.")
        self._restarts = counter(
            "variations_worker_restarts_total", "Workers that have ended, by cause.", ["cause"]
        )
        self._replays = counter(
            "variations_replayed_requests_total",
            "Requests that a worker had when it ended, and that are run again.",
        )
        self._exhausted = counter(
            "variations_attempts_exhausted_total",
            "Requests that failed because a worker ended during each of their three attempts.",
        )
        self._device_bytes = gauge(
            "variations_device_memory_bytes",
            "Memory of the GPU: used by tensors, reserved for them by torch, occupied by all "
            "programs, total. Nothing is reported for a CPU.",
            ["kind"],
        )
        self._device_busy = gauge(
            "variations_device_busy_ratio",
            "Share of the last moments in which the GPU was busy; NaN where NVML does not answer.",
        )
        self._device_busy.set(math.nan)
        self._model = Info("variations_model", "The served checkpoint.", registry=registry)
        self._tuning = Info(
            "variations_tuning",
            "What the worker found at its start: the row cap's reason, torch's threads, on a GPU "
            "the fastest attention by positions × channels; and how the UNet runs: eager, "
            "compiling (eager until then), compiled, not compiled.",
            registry=registry,
        )
        for cause in get_args(Cause):
            self._restarts.labels(cause)

    def worker_up(self, up: bool) -> None:
        """The worker has begun to take requests, or has ceased to."""
        self._worker_up.set(up)
        if not up:  # its figures of the device are no longer true
            self._device_bytes.clear()
            self._device_busy.set(math.nan)

    def restarted(self, cause: Cause) -> None:
        """A worker has ended for this cause."""
        self._restarts.labels(cause).inc()

    def replayed(self, requests: int) -> None:
        """So many requests of an ended worker are run again."""
        self._replays.inc(requests)

    def exhausted(self) -> None:
        """A request failed because its last attempt too ended with a worker."""
        self._exhausted.inc()

    def device(self, use: DeviceUse) -> None:
        """The worker has looked at its GPU."""
        for kind in ("used", "reserved", "occupied", "total"):
            self._device_bytes.labels(kind).set(getattr(use, kind))
        self._device_busy.set(math.nan if use.busy is None else use.busy)


class EngineMetrics(_RequestMetrics, _StepMetrics, _WorkerMetrics):
    """Counts of the engine: of its requests, of the steps, and of the worker process."""

    def __init__(self, registry: CollectorRegistry, pictures: Counter) -> None:
        _RequestMetrics.__init__(self, registry, pictures)
        _StepMetrics.__init__(self, registry)
        _WorkerMetrics.__init__(self, registry)

    def ready(self, model: ModelInfo, measured: Measured) -> None:
        """A worker is ready to serve this model, and has measured its steps."""
        self._row_cap.set(measured.row_cap)
        self._found = {
            "row_cap_reason": measured.cap_reason,
            "threads": str(measured.threads),
            "attention": measured.attention,
        }
        self.unet_runs("eager")
        self._model.info(
            {
                "id": model.id,
                "revision": model.revision or "",
                "device": model.device,
                "dtype": model.dtype,
                "safety_checker": "on" if model.safety_checker else "off",
            }
        )

    def unet_runs(self, kind: UNetKind) -> None:
        """The worker computes steps so from now on."""
        self._tuning.info({**self._found, "unet": kind})
