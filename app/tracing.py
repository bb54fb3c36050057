"""OpenTelemetry traces: a span for each request, below it one for each of its stages.

Spans are sent where ``VARIATIONS_OTLP_ENDPOINT`` says, which needs the extra ``otel``; elsewhere
OpenTelemetry's own API does nothing. A caller's W3C trace context is continued, and sent back as
``traceresponse``. The SDK's own variables, such as ``OTEL_SERVICE_NAME`` and
``OTEL_TRACES_SAMPLER``, are respected.
"""

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.ipc.messages import Stage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_SECONDS = 3.0
"""Longest wait for the last spans to be sent when the service ends."""

_UNTRACED = "/healthz$,/readyz$,/metrics$"


class Tracing:
    """Spans of one application's requests, through ``exporting``; without it nothing is sent."""

    def __init__(self, exporting: "TracerProvider | None", version: str) -> None:
        self._exporting = exporting
        provider = exporting or trace.NoOpTracerProvider()
        self._tracer = provider.get_tracer("variations", version)

    def instrument(self, app: FastAPI) -> None:
        """Give every request but probes a span."""
        if not self._exporting:
            return
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
        from opentelemetry.instrumentation.propagators import (  # noqa: PLC0415
            TraceResponsePropagator,
            set_global_response_propagator,
        )

        set_global_response_propagator(TraceResponsePropagator())  # type: ignore[no-untyped-call]
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=self._exporting,
            excluded_urls=_UNTRACED,
            exclude_spans=["receive", "send"],
        )

    def admitted(self, request_id: str) -> None:
        """Note in the current request's span the id by which it is found in the log."""
        trace.get_current_span().set_attribute("variations.request_id", request_id)

    def stages(self, stages: Iterable[Stage]) -> None:
        """Add a span for each stage below the current request's own."""
        epoch = time.time_ns() - time.perf_counter_ns()
        for stage in stages:
            span = self._tracer.start_span(stage.name, start_time=epoch + round(stage.began * 1e9))
            span.end(epoch + round(stage.ended * 1e9))

    def trace_id(self, traceparent: str) -> str | None:
        """The trace of the current request, which came with this header: 32 hexadecimal digits."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            theirs = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
            context = trace.get_current_span(theirs).get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    def close(self) -> None:
        """Send what has not been sent. Takes up to :data:`FLUSH_SECONDS`."""
        if not self._exporting:
            return
        # The SDK's own limits do not hold against a collector that takes connections and hangs.
        closing = threading.Thread(target=self._exporting.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


def tracing_to(endpoint: str | None, version: str) -> Tracing:
    """Tracing to the OTLP collector at ``endpoint``, or to none.

    Raises :class:`ModuleNotFoundError` where there is an endpoint and the extra is not installed.
    """
    return Tracing(_exporting_to(endpoint, version) if endpoint else None, version)


def _exporting_to(endpoint: str, version: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({"service.version": version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "variations"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
