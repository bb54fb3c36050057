"""What is counted, under which names."""

import re

from prometheus_client import CollectorRegistry, generate_latest

from app.engine.messages import Stats, Timings
from app.metrics import Metrics


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_two_services_in_one_process_do_not_share_their_counts() -> None:
    first, second = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.refused("queue_full")
    assert 'variations_pictures_total{outcome="refused"} 1.0' in text(first)
    assert 'variations_pictures_total{outcome="refused"} 0.0' in text(second)


def test_names_carry_the_prefix_and_base_units() -> None:
    names = re.findall(r"^# TYPE (\S+) (\S+)", text(Metrics(CollectorRegistry())), re.MULTILINE)
    for name, kind in names:
        assert name.startswith(("variations_", "process_")), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis|minutes|kb|mb)\b", name), name


def test_a_step_is_counted_by_its_rows_requests_and_schedules() -> None:
    metrics = Metrics(CollectorRegistry())
    members = (("a", 0), ("b", 0), ("c", 0))
    metrics.step(
        Stats(0.03, 6, 8, (64, 64), members, schedules=2, waiting_rows=4, cap=16, decoded=1,
              decode_seconds=0.5, out_of_memory=("step",))
    )  # fmt: skip
    found = text(metrics)
    for line in (
        'variations_step_rows_bucket{le="4.0"} 0.0',
        'variations_step_rows_bucket{le="6.0"} 1.0',
        'variations_step_requests_bucket{le="2.0"} 0.0',
        'variations_step_requests_bucket{le="3.0"} 1.0',
        'variations_step_schedules_bucket{le="1.0"} 0.0',
        'variations_step_schedules_bucket{le="2.0"} 1.0',
        "variations_step_padding_rows_total 2.0",
        "variations_step_seconds_sum 0.03",
        "variations_waiting_rows 4.0",
        "variations_row_cap 16.0",
        'variations_stall_seconds_total{stage="decode"} 0.5',
        'variations_out_of_memory_total{stage="step"} 1.0',
    ):
        assert line in found


def test_pictures_are_counted_by_outcome() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.pictures(ok=3, flagged=1)
    metrics.failed(2)
    metrics.cancelled()
    metrics.refused("quota")
    counts = dict(re.findall(r'variations_pictures_total{outcome="(\w+)"} (\S+)', text(metrics)))
    expected = {
        "ok": "3.0",
        "flagged": "1.0",
        "failed": "2.0",
        "cancelled": "1.0",
        "refused": "1.0",
    }
    assert counts == expected


def test_stages_the_queue_and_the_worker_are_seen() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.stages(Timings(queue=0.5, encode=0.25, denoise=2.0, decode=0.125, steps=7))
    metrics.queue(5)
    metrics.worker_up(True)
    found = text(metrics)
    for line in (
        'variations_stage_seconds_sum{stage="queue"} 0.5',
        'variations_stage_seconds_sum{stage="denoise"} 2.0',
        "variations_queue_requests 5.0",
        "variations_worker_up 1.0",
    ):
        assert line in found
    metrics.worker_up(False)
    assert "variations_worker_up 0.0" in text(metrics)


def test_wasted_steps_are_told_apart_by_how_late_they_are() -> None:
    metrics = Metrics(CollectorRegistry())
    for number in (1, 2, 3, 4):
        metrics.wasted_step(number)
    counts = re.findall(r'variations_wasted_steps_total{step="(\w+)"} (\S+)', text(metrics))
    assert dict(counts) == {"first": "1.0", "second": "1.0", "later": "2.0"}


def test_the_predicted_wait_is_asked_for_at_every_scrape() -> None:
    metrics = Metrics(CollectorRegistry())
    waits = iter([1.5, 2.5])
    metrics.foresee(lambda: next(waits))
    assert "variations_predicted_wait_seconds 1.5" in text(metrics)
    assert "variations_predicted_wait_seconds 2.5" in text(metrics)
