"""OpenTelemetry traces: a span for each request, below it one for each of its stages.

On where ``VARIATIONS_OTLP_ENDPOINT`` says whither they go; needs the extra ``otel``. A caller's
W3C trace context is taken up, and given back as ``traceresponse``. The SDK's own variables, such
as ``OTEL_SERVICE_NAME`` and ``OTEL_TRACES_SAMPLER``, hold too.
"""

import re
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from fastapi import FastAPI

from app.ipc.messages import Stage

FLUSH_SECONDS = 3.0
"""Most that the end of the service waits for the last spans to be sent."""

_UNTRACED = "/healthz$,/readyz$,/metrics$"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class Tracing(Protocol):
    """What the HTTP layer tells of its requests."""

    def stages(self, request_id: str, stages: Iterable[Stage]) -> None:
        """The current request was in these stages."""
        ...

    def trace_id(self, traceparent: str) -> str | None:
        """The trace that the current request, which came with this header, belongs to."""
        ...

    def instrument(self, app: FastAPI) -> None:
        """Take note of every request of this application."""
        ...

    def close(self) -> None:
        """Send what has not been sent. Takes up to :data:`FLUSH_SECONDS`."""
        ...


class Untraced:
    """Nothing is sent anywhere; a caller's trace is still known by its id."""

    def stages(self, request_id: str, stages: Iterable[Stage]) -> None:
        """Nobody is told."""

    def trace_id(self, traceparent: str) -> str | None:
        """What the caller says."""
        found = _TRACEPARENT.fullmatch(traceparent)
        return found[1] if found else None

    def instrument(self, app: FastAPI) -> None:
        """Nothing is added."""

    def close(self) -> None:
        """There is nothing to send."""


class Traced:
    """Spans over OTLP. Raises :class:`ModuleNotFoundError` where the extra is not installed."""

    def __init__(self, endpoint: str, version: str) -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        resource = Resource.create({"service.version": version})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "variations"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("variations", version)
        self._current_span = trace.get_current_span

    def instrument(self, app: FastAPI) -> None:
        """Let every request but probes have a span."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
        from opentelemetry.instrumentation.propagators import (  # noqa: PLC0415
            TraceResponsePropagator,
            set_global_response_propagator,
        )

        set_global_response_propagator(TraceResponsePropagator())  # type: ignore[no-untyped-call]
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._provider,
            excluded_urls=_UNTRACED,
            exclude_spans=["receive", "send"],
        )

    def stages(self, request_id: str, stages: Iterable[Stage]) -> None:
        """A span for each, below the request's own."""
        self._current_span().set_attribute("variations.request_id", request_id)
        epoch = time.time_ns() - time.perf_counter_ns()
        for stage in stages:
            span = self._tracer.start_span(stage.name, start_time=epoch + round(stage.began * 1e9))
            span.end(epoch + round(stage.ended * 1e9))

    def trace_id(self, traceparent: str) -> str | None:
        """Its span's."""
        context = self._current_span().get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    def close(self) -> None:
        """Send what has not been sent."""
        # The SDK's own limits do not hold against a collector that takes connections and hangs.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


def tracing_to(endpoint: str | None, version: str) -> Untraced | Traced:
    """As the setting has it."""
    return Traced(endpoint, version) if endpoint else Untraced()
