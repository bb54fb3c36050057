"""What can be seen of the deploy files by reading them: no engine, no cluster, no tools."""

import re
from pathlib import Path

import pytest
import yaml

from app.settings import Settings
from tests.deploy.files import COMPOSE, DEPLOY, ROOT, base_settings, deployment, manifests

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
