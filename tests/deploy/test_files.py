"""Checks of the deploy files by reading them: no engine, no cluster, no tools."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from app.ipc.messages import StepStats
from app.metrics import Metrics
from app.settings import Settings
from tests.deploy.dashboard import DASHBOARD, FIGURES, PAGE, queries, written
from tests.deploy.files import COMPOSE, DEPLOY, ROOT, base_settings, deployment, manifests

RULES = DEPLOY / "prometheus" / "rules" / "variations.yml"
SCALER = DEPLOY / "kubernetes" / "base" / "scaledobject.yaml"

YAML = [COMPOSE, *sorted(DEPLOY.rglob("*.y*ml"))]
ALL = [ROOT / "Dockerfile", *YAML, *sorted(DEPLOY.rglob("*.md"))]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", YAML, ids=_name)
def test_it_is_yaml(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_every_setting_that_is_set_exists(path: Path) -> None:
    named = set(re.findall(r"VARIATIONS_[A-Z_]*[A-Z]", path.read_text()))
    assert named <= {f"VARIATIONS_{name.upper()}" for name in Settings.model_fields}


def test_what_compose_mounts_from_here_is_here() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    mounts = [mount.split(":")[0] for service in services for mount in service.get("volumes", ())]
    folders = [mount for mount in mounts if mount.startswith(".")]
    assert folders
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_a_pod_is_given_longer_than_its_drain_and_that_longer_than_a_request() -> None:
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = base_settings()
    request = float(settings["VARIATIONS_REQUEST_TIMEOUT"])
    drain = float(settings["VARIATIONS_DRAIN_TIMEOUT"])
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert request < drain
    assert pause + drain < pod["terminationGracePeriodSeconds"]


def test_compose_waits_longer_than_the_drain() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["services"]["variations"]
    minutes = float(service["stop_grace_period"].removesuffix("m"))
    assert Settings.model_fields["drain_timeout"].default < minutes * 60


def test_rays_proxies_wait_longer_than_a_request_may_take() -> None:
    config = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())
    request = Settings.model_fields["request_timeout"].default
    assert request < config["http_options"]["request_timeout_s"]


def test_the_pods_are_what_everything_selects() -> None:
    labels = {"app.kubernetes.io/name": "variations"}
    for manifest in manifests():
        spec = manifest.get("spec", {})
        if manifest["kind"] in {"PodDisruptionBudget", "ServiceMonitor"}:
            assert spec["selector"]["matchLabels"] == labels
        if manifest["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] == labels


def test_the_autoscaler_asks_for_the_pods_of_its_namespace() -> None:
    (scaler,) = (one for one in manifests() if one["kind"] == "ScaledObject")
    (namespace,) = (one for one in manifests() if one["kind"] == "Namespace")
    (trigger,) = scaler["spec"]["triggers"]
    assert f'{{namespace="{namespace["metadata"]["name"]}"}}' in trigger["metadata"]["query"]


@pytest.mark.parametrize("path", [DASHBOARD, RULES, SCALER], ids=_name)
def test_every_metric_that_is_asked_for_is_exposed(path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine.step(StepStats(0.1, 1, 1, (64, 64), (), schedules=1, waiting_rows=0, cap=1))
    metrics.http.request("/variations", 200, 0.1)
    metrics.engine.started(0.1)
    exposed = set(
        re.findall(r"^(?:# TYPE )?(\w+)", generate_latest(metrics.registry).decode(), re.M)
    )
    asked = set(re.findall(r"\b(?:variations|process)_[a-z0-9_]+", path.read_text()))
    assert asked
    assert asked <= exposed


def test_kubernetes_has_the_same_rules() -> None:
    (rule,) = (one for one in manifests() if one["kind"] == "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_every_alert_is_told_of_in_the_docs_and_tested() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule for rule in group["rules"] if "alert" in rule]
    tested = yaml.safe_load((ROOT / "tests" / "deploy" / "rules_test.yml").read_text())["tests"]
    fired = {
        alert["alertname"]
        for test in tested
        for alert in test.get("alert_rule_test", ())
        if alert["exp_alerts"]
    }
    assert {rule["alert"] for rule in alerts} == fired
    operations = (ROOT / "docs" / "operations.md").read_text()
    for rule in alerts:
        assert f"### {rule['alert']}\n" in operations
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_the_page_of_the_dashboard_is_what_was_last_seen_in_it() -> None:
    figures = json.loads(FIGURES.read_text())
    assert [(one["panel"], one["query"]) for one in figures] == [
        (panel["title"], target["expr"]) for panel, target in queries()
    ], "the dashboard has changed: `make test-deploy` and `python -m tests.deploy.dashboard`"
    assert written(PAGE.read_text(), figures) == PAGE.read_text()
