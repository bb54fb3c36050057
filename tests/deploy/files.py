"""The files that deploy the service, as data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final = ROOT / "docker-compose.yml"
KUBERNETES: Final = DEPLOY / "kubernetes"
OVERLAYS: Final = ("cpu", "gpu")


def manifests(path: Path = KUBERNETES) -> Iterator[dict[str, Any]]:
    """Every document of every manifest, kustomizations left out."""
    for file in sorted(path.rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from yaml.safe_load_all(file.read_text())


def deployment() -> dict[str, Any]:
    """The Deployment that both overlays share."""
    (found,) = (one for one in manifests(KUBERNETES / "base") if one["kind"] == "Deployment")
    return found


def base_settings() -> dict[str, str]:
    """The settings that both overlays share."""
    file = KUBERNETES / "base" / "kustomization.yaml"
    (generator,) = yaml.safe_load(file.read_text())["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])
