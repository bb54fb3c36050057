import json
from pathlib import Path

import pytest

from app.training.evaluate import MOST_FALSE_ALARMS, TARGETS, missed, table

_DOCS = Path(__file__).parents[2] / "docs"
_GOOD = {**TARGETS, "texture": 1.0, "false_alarms": MOST_FALSE_ALARMS}


def test_figures_at_their_targets_miss_none() -> None:
    assert missed(_GOOD) == []


@pytest.mark.parametrize("name", TARGETS)
def test_a_figure_below_its_target_is_missed(name: str) -> None:
    assert missed({**_GOOD, name: TARGETS[name] - 0.01}) == [name]


def test_more_false_alarms_than_allowed_are_missed() -> None:
    assert missed({**_GOOD, "false_alarms": 0.03}) == ["false_alarms"]


def test_the_committed_figures_are_those_in_the_documentation() -> None:
    report = json.loads((_DOCS / "demo-model.json").read_text())

    assert report["missed"] == missed(report["figures"])
    assert table(report["figures"]) in (_DOCS / "demo-model.md").read_text()
