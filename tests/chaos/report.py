"""``python -m tests.chaos.report``: the figures of ``make test-chaos`` into docs/reliability.md."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"


def tables() -> str:
    """One table for each thing that was tried; ``tried: so`` and ``tried: thus`` share one."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in sorted(json.loads(FIGURES.read_text()).items()):
        group, _, case = name.partition(": ")
        groups.setdefault(group, {})[case] = values
    parts = [f"### {name[0].upper()}{name[1:]}\n\n{table(cases)}" for name, cases in groups.items()]
    return "\n\n".join(parts) + "\n"


def table(cases: dict[str, dict[str, Any]]) -> str:
    """The cases beside one another, or below where they are many."""
    keys = next(iter(cases.values()))
    rows = [
        [key.replace("_", " "), *(said(one.get(key)) for one in cases.values())] for key in keys
    ]
    rows.insert(0, ["", *cases])
    if len(cases) > len(keys):
        rows = [list(column) for column in zip(*rows, strict=True)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def said(value: Any) -> str:
    """One figure as people write it."""
    match value:
        case float():
            return f"{value:.4g}" if value < 100 else f"{value:.0f}"
        case dict():
            return ", ".join(f"{key}: {one}" for key, one in value.items())
    return str(value)


def written(page: str) -> str:
    """``page`` with the tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
