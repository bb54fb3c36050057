"""``python -m tests.chaos.report``: the figures of ``make test-chaos`` into docs/reliability.md."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"


def tables() -> str:
    """One small table for each test that recorded something."""
    parts = []
    for name, values in sorted(json.loads(FIGURES.read_text()).items()):
        rows = [f"| {key.replace('_', ' ')} | {value} |" for key, value in values.items()]
        parts.append(
            "\n".join([f"### {name[0].upper()}{name[1:]}", "", "| | |", "|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"


def written(page: str) -> str:
    """``page`` with the tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
