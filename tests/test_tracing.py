"""Tracing of a small application, with and without a collector."""

import asyncio
import socket
import time
from collections.abc import Mapping

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.ipc.messages import Stage
from app.tracing import Tracing, tracing_to
from tests.support.collector import collecting

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


def traced(tracing: Tracing) -> FastAPI:
    """An application whose only page has two stages and answers with the id of its trace."""
    app = FastAPI()

    @app.get("/work")
    async def work(traceparent: str = "") -> str | None:
        now = time.perf_counter()
        tracing.admitted("seen")
        tracing.stages([Stage("read", now - 3, now - 2), Stage("queue", now - 2, now)])
        return tracing.trace_id(traceparent)

    @app.get("/healthz")
    async def healthz() -> str:
        return "alive"

    tracing.instrument(app)
    return app


def get(app: FastAPI, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_request_is_a_span_in_its_callers_trace_with_its_stages_below() -> None:
    with collecting() as collector:
        tracing = tracing_to(collector.url, "1.0")
        app = traced(tracing)
        answer = get(app, "/work", headers={"traceparent": TRACEPARENT})
        get(app, "/healthz")
        tracing.close()
    assert answer.json() == TRACE
    assert answer.headers["traceresponse"].split("-")[1] == TRACE
    assert collector.services == {"variations"}
    (request,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert request.name == "GET /work"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    attributes = {a.key: a.value.string_value for a in request.attributes}
    assert attributes["variations.request_id"] == "seen"
    stages = {span.name: span for span in collector.spans if span is not request}
    assert stages.keys() == {"read", "queue"}
    for stage in stages.values():
        assert (stage.trace_id, stage.parent_span_id) == (request.trace_id, request.span_id)
    read, queue = stages["read"], stages["queue"]
    assert read.end_time_unix_nano == pytest.approx(queue.start_time_unix_nano, abs=1e8)
    seconds = (queue.end_time_unix_nano - queue.start_time_unix_nano) / 1e9
    assert seconds == pytest.approx(2, abs=0.001)


def test_without_a_collector_the_application_works_and_the_callers_trace_is_known() -> None:
    tracing = tracing_to(None, "1.0")
    app = traced(tracing)
    answer = get(app, f"/work?traceparent={TRACEPARENT}")
    assert (answer.status_code, answer.json()) == (200, TRACE)
    assert "traceresponse" not in answer.headers
    tracing.close()


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (TRACEPARENT, TRACE),
        (f"01-{TRACE}-{CALLER}-01-more", TRACE),
        (f"{TRACEPARENT}-more", None),
        (f"00-{'0' * 32}-{CALLER}-01", None),
        (f"00-{TRACE}", None),
        ("", None),
    ],
    ids=["valid", "a later version", "too long for its version", "zeros", "cut off", "none"],
)
def test_a_callers_trace_is_read_as_w3c_says(given: str, known: str | None) -> None:
    assert tracing_to(None, "1.0").trace_id(given) == known


@pytest.mark.timeout(60)
def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    with socket.create_server(("127.0.0.1", 0)) as collector:
        tracing = tracing_to(f"http://127.0.0.1:{collector.getsockname()[1]}", "1.0")
        tracing.stages([Stage("read", 0.0, 1.0)])
        tracing.close()
