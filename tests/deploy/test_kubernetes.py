"""The overlays are rendered, checked against schemas and policies, and one of them is run."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.engine import KEY, call
from tests.deploy.files import KUBERNETES, OVERLAYS

pytestmark = pytest.mark.deploy

_TYPES: Final = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
}
_COMPILE: Final = (
    *("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"),
    *("--module", "nodenext", "--moduleResolution", "nodenext"),
)


def render(overlay: str) -> str:
    return call("kubectl", "kustomize", KUBERNETES / "overlays" / overlay)


def documents(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(overlay)))


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / f"{request.param}.yaml"
    file.write_text(render(request.param))
    return file


def test_it_is_valid_for_current_kubernetes(rendered: Path) -> None:
    call("kubernetes-validate", "--strict", rendered)


def test_no_policy_is_broken(rendered: Path) -> None:
    options = ("--framework=kubernetes", "--skip-download", "--compact", "--output=json")
    summary = json.loads(call("checkov", *options, "--file", rendered))["summary"]
    assert summary["passed"] > 50
    assert (summary["failed"], summary["parsing_errors"]) == (0, 0)


def test_kinds_that_kubernetes_does_not_know_are_as_their_operators_want(rendered: Path) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl
    node = Path(kubectl).parents[1] / "node"
    program = [f'import {{ {kind} }} from "{module}";' for kind, module in _TYPES.items()]
    kinds = []
    for document in yaml.safe_load_all(rendered.read_text()):
        if document["kind"] in _TYPES:
            content = {part: document[part] for part in ("metadata", "spec")}
            assert _TYPES[document["kind"]].endswith(document["apiVersion"])
            program.append(f"new {document['kind']}({json.dumps(content)});")
            kinds.append(document["kind"])
    assert sorted(kinds) == sorted(_TYPES)
    file = node / f"{rendered.stem}.mts"
    file.write_text("\n".join(program))
    call(node / "node_modules" / ".bin" / "tsc", *_COMPILE, file)


def test_a_gpu_pod_has_one_gpu_and_no_surge() -> None:
    (deployment,) = (one for one in documents("gpu") if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    (cache,) = (
        v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "cache"
    )
    assert cache == {"name": "cache", "persistentVolumeClaim": {"claimName": "variations-weights"}}


@pytest.fixture
def pod(image: str, tmp_path: Path) -> Iterator[str]:
    """The name of the container of the CPU overlay's Deployment, run by podman."""
    call("podman", "tag", image, "localhost/variations:0.2.0-cpu")
    # The engine wants a Secret's data as JSON, cannot resolve a probe's named port, and would
    # publish the container's ports on this machine's.
    secret = tmp_path / "keys.json"
    secret.write_text(json.dumps({"VARIATIONS_API_KEYS": base64.b64encode(KEY.encode()).decode()}))
    played = [one for one in documents("cpu") if one["kind"] in {"ConfigMap", "Deployment"}]
    (container,) = played[-1]["spec"]["template"]["spec"]["containers"]
    for part in ("ports", "livenessProbe", "startupProbe", "readinessProbe"):
        del container[part]
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all(played))
    with ExitStack() as afterwards:
        call("podman", "secret", "create", "variations-keys", secret)
        afterwards.callback(call, "podman", "secret", "rm", "variations-keys")
        afterwards.callback(call, "podman", "kube", "down", file)
        call("podman", "kube", "play", "--network=none", file)
        yield "variations-pod-0-variations"


_ASK: Final = """
import json, time, urllib.request
def ready():
    try:
        return urllib.request.urlopen("http://127.0.0.1:8000/readyz").status == 200
    except OSError:
        return False
deadline = time.monotonic() + 300
while not ready() and time.monotonic() < deadline:
    time.sleep(0.2)
print(urllib.request.urlopen("http://127.0.0.1:8000/readyz").read().decode())
"""


def test_the_deployment_runs_as_it_is_locked_down(pod: str) -> None:
    answer = json.loads(call("podman", "exec", pod, "python3", "-c", _ASK))
    assert answer["status"] == "ready"
    state = json.loads(call("podman", "inspect", pod))[0]
    assert state["HostConfig"]["ReadonlyRootfs"]
    assert state["Config"]["User"].split(":")[0] == "10001"
    assert state["EffectiveCaps"] in (None, [])
    assert "VARIATIONS_LOG_FORMAT=json" in state["Config"]["Env"]
    call("podman", "exec", pod, "touch", "/tmp/upload", "/cache/checkpoint")
