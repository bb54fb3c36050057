"""The README tells the truth about what can be checked by a machine."""

import re
from pathlib import Path

from app.settings import Settings

README = Path(__file__).parents[1] / "README.md"


def settings_table() -> str:
    """The table of all settings as the README must show it."""
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), "") else f"`{_written(field.default)}`"
        description = " ".join((field.description or "").split())
        lines.append(f"| `VARIATIONS_{name.upper()}` | {default} | {description} |")
    return "\n".join(lines)


def _written(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_settings_table_is_complete_and_current() -> None:
    assert settings_table() in README.read_text(), f"the README needs:\n\n{settings_table()}\n"


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README.read_text())
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert local
    assert [link for link in local if not (README.parent / link).exists()] == []
