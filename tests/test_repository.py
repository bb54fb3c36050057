"""The files around the code agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"
FILES = [HOOKS, *sorted((ROOT / ".github").rglob("*.yml"))]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_ci_runs_make_targets_that_exist() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert {"make check", "make test"} <= set(commands)
    assert {command.removeprefix("make ") for command in commands} <= make_targets()


def test_every_command_that_contributors_are_told_exists() -> None:
    told = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert told
    assert told <= make_targets()


def test_a_commit_is_checked_by_the_tools_of_make_check() -> None:
    (repository,) = yaml.safe_load(HOOKS.read_text())["repos"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert tools == set(re.findall(r"\$\(BIN\)/(ruff|mypy|lint-imports)", _recipe("check")))


def test_the_changelog_and_the_image_tags_are_of_this_version() -> None:
    version = _project()["version"]
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == version
    overlays = ROOT / "deploy" / "kubernetes" / "overlays"
    for overlay in ("cpu", "gpu"):
        (image,) = yaml.safe_load((overlays / overlay / "kustomization.yaml").read_text())["images"]
        assert image["newTag"].startswith(f"{version}-")


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def _recipe(target: str) -> str:
    """The commands of a make target."""
    _, _, rest = (ROOT / "Makefile").read_text().partition(f"\n{target}:")
    return rest.partition("\n\n")[0]
