"""Traces of the real service, as a collector receives them."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import ValidationError

from app.ipc.messages import StageName
from app.settings import Settings
from app.tracing import Untraced
from tests.support.pictures import picture_file
from tests.support.processes import service_process

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


@dataclass
class Collector:
    """Takes what is exported over OTLP."""

    url: str
    services: set[str] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in sent.resource.attributes}
            self.services.add(names["service.name"])
            self.spans.extend(span for scope in sent.scope_spans for span in scope.spans)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collected.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collected
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_in_its_callers_trace_and_so_is_each_of_its_stages(
    collector: Collector, tiny_checkpoint: Path
) -> None:
    with service_process(
        otlp_endpoint=collector.url, model=str(tiny_checkpoint), device="cpu", log_format="json"
    ) as service:
        service.wait_for("ready:")
        with httpx.Client(base_url=service.url, timeout=60) as client:
            assert client.get("/readyz").status_code == 200
            answer = client.post(
                "/variations",
                files={"image": ("a.png", picture_file("PNG"))},
                headers={"traceparent": TRACEPARENT, "x-request-id": "seen"},
            )
        assert answer.status_code == 200
        assert answer.headers["traceresponse"].split("-")[1] == TRACE
        service.process.terminate()
        service.assert_clean_end()
        log = [json.loads(line) for line in service.log().splitlines()]
    assert collector.services == {"variations"}
    (request,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert request.name == "POST /variations"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    attributes = {a.key: a.value.string_value for a in request.attributes}
    assert attributes["variations.request_id"].startswith("seen.")
    stages = [span for span in collector.spans if span is not request]
    assert {span.name for span in stages} == set(get_args(StageName))
    for stage in stages:
        assert (stage.trace_id, stage.parent_span_id) == (request.trace_id, request.span_id)
        assert stage.start_time_unix_nano <= stage.end_time_unix_nano
    assert [line["trace_id"] for line in log if line.get("request_id") == "seen"] == [TRACE]


@pytest.mark.parametrize(
    ("given", "known"),
    [(TRACEPARENT, TRACE), (TRACEPARENT + "-more", TRACE), ("", None), (f"00-{TRACE}", None)],
)
def test_without_traces_the_callers_is_known_all_the_same(given: str, known: str | None) -> None:
    assert Untraced().trace_id(given) == known


def test_an_endpoint_is_an_address() -> None:
    with pytest.raises(ValidationError, match="begins with http"):
        Settings(otlp_endpoint="collector:4318")


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.settings.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="extra otel"):
        Settings(otlp_endpoint="http://collector:4318")
