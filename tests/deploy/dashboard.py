"""The dashboard's panels and queries, and docs/dashboard.md, which shows what they gave.

``python -m tests.deploy.dashboard`` writes that page from what test_monitoring.py last recorded.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.deploy.files import DEPLOY, ROOT

DASHBOARD: Final = DEPLOY / "grafana" / "dashboards" / "variations.json"
FIGURES: Final = ROOT / "benchmarks" / "results" / "dashboard.json"
PAGE: Final = ROOT / "docs" / "dashboard.md"
BEGIN, END = "<!-- panels -->\n", "<!-- /panels -->\n"

_SELECTION: Final = '{job=~"$job", instance=~"$instance"'


def queries() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every panel that asks something, with each of its targets."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel, target


def written(page: str, figures: Sequence[dict[str, Any]]) -> str:
    """``page`` with the table of panels between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = ["| panel | query | value |", "|---|---|---|"]
    rows += [f"| {one['panel']} | `{_short(one['query'])}` | {one['value']} |" for one in figures]
    return f"{before}{BEGIN}\n{chr(10).join(rows)}\n\n{END}{after}"


def _short(query: str) -> str:
    """Without the selection that all queries share; a bar would end the table's cell."""
    for selection in (f"{_SELECTION}, ", f"{_SELECTION}}}"):
        query = query.replace(selection, "{" if selection.endswith(", ") else "")
    return query.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), json.loads(FIGURES.read_text())))
