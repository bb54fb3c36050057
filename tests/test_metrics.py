"""The names under which things are counted, and what counts."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from platform import python_version
from time import monotonic

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_parser,
)
from prometheus_client.registry import Collector

from app import __version__
from app.ipc.messages import DeviceUse, Measured, StepStats
from app.metrics import MOST_RENDERINGS, Metrics
from app.parameters import Fit, ModelInfo, Parameters, Scheduler
from app.scheduling.row_cap import CapReason

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

ASKED = Parameters(4, 3.0, 10, Scheduler.DDIM, 1, 64, 64, Fit.SQUASH)
MEMBERS = (("a", 0), ("b", 0), ("c", 0))
STEP = StepStats(0.03, 6, 8, (64, 64), MEMBERS, schedules=2, waiting_rows=4, cap=16)
USE = DeviceUse(used=1, reserved=2, occupied=3, total=4, busy=None)
MODEL = ModelInfo(
    id="demo", revision=None, guidance_scale=3.0, num_inference_steps=25,
    scheduler=Scheduler.DDIM, schedulers=(Scheduler.DDIM,), fit=Fit.SQUASH, sizes=((64, 64),),
    device="cpu", dtype="float32", safety_checker=True,
)  # fmt: skip


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_two_services_in_one_process_do_not_share_their_counts() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.http.refused("queue_full")
    assert 'variations_refusals_total{reason="queue_full"} 1.0' in text(first)
    assert 'variations_refusals_total{reason="queue_full"} 0.0' in text(second)


def test_names_carry_the_prefix_and_base_units() -> None:
    names = re.findall(r"^# TYPE (\S+) (\S+)", text(Metrics(CollectorRegistry())), re.MULTILINE)
    for name, kind in names:
        assert name.startswith(("variations_", "process_")), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis|minutes|kb|mb)\b", name), name


def test_a_step_is_counted_by_its_rows_requests_and_schedules() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.step(STEP)
    metrics.engine.stalled("decode", 0.5)
    metrics.engine.ran_out("step")
    found = text(metrics)
    for line in (
        'variations_step_rows_bucket{le="4.0"} 0.0',
        'variations_step_rows_bucket{le="6.0"} 1.0',
        'variations_step_requests_bucket{le="2.0"} 0.0',
        'variations_step_requests_bucket{le="3.0"} 1.0',
        'variations_step_schedules_bucket{le="1.0"} 0.0',
        'variations_step_schedules_bucket{le="2.0"} 1.0',
        "variations_step_padding_rows_total 2.0",
        'variations_step_seconds_sum{bucket="8"} 0.03',
        "variations_active_rows 6.0",
        "variations_request_steps_total 3.0",
        "variations_waiting_rows 4.0",
        "variations_row_cap 16.0",
        'variations_stall_seconds_total{stage="decode"} 0.5',
        'variations_out_of_memory_total{stage="step"} 1.0',
    ):
        assert line in found


def test_pictures_are_counted_by_outcome() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.pictures(ASKED, flagged=1)
    metrics.engine.failed(replace(ASKED, n=2))
    metrics.engine.cancelled(replace(ASKED, n=1, scheduler=Scheduler.EULER, width=96))
    metrics.http.refused("quota")
    counts = re.findall(r"variations_pictures_total({.*}) (\S+)", text(metrics))
    assert dict(counts) == {
        '{outcome="ok",scheduler="ddim",size="64x64"}': "3.0",
        '{outcome="flagged",scheduler="ddim",size="64x64"}': "1.0",
        '{outcome="failed",scheduler="ddim",size="64x64"}': "2.0",
        '{outcome="cancelled",scheduler="euler",size="96x64"}': "1.0",
        '{outcome="refused",scheduler="",size=""}': "1.0",
    }


def test_stages_the_queue_and_the_worker_are_seen() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.http.stages({"queue": 0.5, "denoise": 2.0})
    metrics.engine.started(0.75)
    metrics.engine.queue(5)
    metrics.engine.worker_up(True)
    found = text(metrics)
    for line in (
        'variations_stage_seconds_sum{stage="queue"} 0.5',
        'variations_stage_seconds_sum{stage="denoise"} 2.0',
        "variations_first_step_seconds_sum 0.75",
        "variations_queue_requests 5.0",
        "variations_worker_up 1.0",
    ):
        assert line in found
    metrics.engine.worker_up(False)
    assert "variations_worker_up 0.0" in text(metrics)


def test_wasted_steps_are_told_apart_by_how_late_they_are() -> None:
    metrics = Metrics(CollectorRegistry())
    for number in (1, 2, 3, 4):
        metrics.engine.wasted_step(number)
    counts = re.findall(r'variations_wasted_steps_total{step="(\w+)"} (\S+)', text(metrics))
    assert dict(counts) == {"first": "1.0", "second": "1.0", "later": "2.0"}


def test_the_predicted_wait_is_asked_for_at_every_scrape() -> None:
    metrics = Metrics(CollectorRegistry())
    waits = iter([1.5, 2.5])
    metrics.engine.predict_wait(lambda: next(waits))
    assert "variations_predicted_wait_seconds 1.5" in text(metrics)
    assert "variations_predicted_wait_seconds 2.5" in text(metrics)


def test_lost_workers_are_counted_by_cause_with_what_becomes_of_their_requests() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.restarted("signal")
    metrics.engine.replayed(3)
    metrics.engine.exhausted()
    found = text(metrics)
    for line in (
        'variations_worker_restarts_total{cause="signal"} 1.0',
        'variations_worker_restarts_total{cause="launch"} 0.0',
        "variations_replayed_requests_total 3.0",
        "variations_attempts_exhausted_total 1.0",
    ):
        assert line in found


def test_decoder_failures_are_counted_by_reason() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.decoders.failed("cpu")
    metrics.decoders.failed("died")
    metrics.decoders.failed("died")
    counts = re.findall(r'variations_decoder_failures_total{reason="(\w+)"} (\S+)', text(metrics))
    assert dict(counts) == {"cpu": "1.0", "time": "0.0", "memory": "0.0", "died": "2.0"}


def test_the_decoders_queue_is_asked_for_at_every_scrape() -> None:
    metrics = Metrics(CollectorRegistry())
    waiting = iter([0, 7])
    metrics.decoders.watch(lambda: next(waiting))
    assert "variations_decoder_queue_requests 0.0" in text(metrics)
    assert "variations_decoder_queue_requests 7.0" in text(metrics)


def test_an_idle_engine_has_no_rows() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.step(STEP)
    metrics.engine.idle()
    assert "variations_active_rows 0.0" in text(metrics)
    assert "variations_waiting_rows 0.0" in text(metrics)


def test_the_device_the_model_and_the_version_are_seen() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.device(USE)
    metrics.engine.ready(MODEL, Measured({2: 0.1}, 16, CapReason.THROUGHPUT, threads=2))
    found = text(metrics)
    for line in (
        'variations_device_memory_bytes{kind="used"} 1.0',
        'variations_device_memory_bytes{kind="total"} 4.0',
        "variations_device_busy_ratio NaN",
        "variations_row_cap 16.0",
        'variations_tuning_info{attention="",row_cap_reason="throughput",threads="2",'
        'unet="eager"} 1.0',
        'variations_model_info{device="cpu",dtype="float32",id="demo",revision="",'
        'safety_checker="on"} 1.0',
        f'variations_build_info{{python="{python_version()}",version="{__version__}"}} 1.0',
    ):
        assert line in found
    metrics.engine.device(replace(USE, busy=0.5))
    assert "variations_device_busy_ratio 0.5" in text(metrics)
    metrics.engine.worker_up(False)
    assert "variations_device_busy_ratio NaN" in text(metrics)
    assert "variations_device_memory_bytes{" not in text(metrics)


def test_openmetrics_is_well_formed() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.pictures(ASKED, flagged=1)
    exposed = openmetrics(metrics.registry).decode()  # type: ignore[no-untyped-call]
    families = openmetrics_parser(exposed)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"variations_pictures", "variations_model"}


def test_the_page_of_metrics_is_complete() -> None:
    table = table_of(everything_counted())
    assert table in PAGE.read_text(), f"docs/metrics.md needs:\n\n{table}\n"


def everything_counted() -> Metrics:
    """Metrics in which every family with labels has a sample."""
    metrics = Metrics(CollectorRegistry())
    metrics.http.request("/variations", 200, 0.1)
    metrics.engine.step(STEP)
    metrics.engine.stalled("decode", 0.5)
    metrics.engine.device(USE)
    metrics.engine.ready(MODEL, Measured({2: 0.1}, 16, CapReason.THROUGHPUT, threads=2))
    return metrics


def table_of(metrics: Metrics) -> str:
    """All metrics of our own as docs/metrics.md must show them."""
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in sorted(metrics.registry.collect(), key=lambda family: family.name):
        if family.name.startswith("variations_"):
            labels = ", ".join(f"`{name}`" for name in labels_of(family))
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            rows.append(
                f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"
            )
    return "\n".join(rows)


def labels_of(family: Metric) -> Iterator[str]:
    """The names of its labels, without a histogram's own."""
    return (name for name in family.samples[0].labels if name != "le")


def test_metrics_are_rendered_some_times_a_second_however_often_they_are_asked_for() -> None:
    registry = CollectorRegistry()
    metrics, renderings = Metrics(registry), 0

    class Counting(Collector):
        def collect(self) -> Iterator[Metric]:
            nonlocal renderings
            renderings += 1
            return iter(())

    registry.register(Counting())
    began, renderings = monotonic(), 0
    for number in range(500):
        content, _ = metrics.render(f"application/openmetrics-text;version=1.0.{number}")
        assert b"variations_worker_up" in content
    assert renderings <= MOST_RENDERINGS * (monotonic() - began + 2)
