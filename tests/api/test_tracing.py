"""Traces of the real service, as a collector receives them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import ValidationError

from app.ipc.messages import StageName
from app.settings import Settings
from tests.support.collector import Collector, collecting
from tests.support.pictures import picture_file
from tests.support.processes import service_process

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


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


def test_an_endpoint_is_an_address() -> None:
    with pytest.raises(ValidationError, match="begins with http"):
        Settings(otlp_endpoint="collector:4318")


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.settings.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="extra otel"):
        Settings(otlp_endpoint="http://collector:4318")
