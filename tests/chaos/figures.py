"""Figures that the long tests measure, kept for the documents."""

import json
import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "VARIATIONS_FIGURES"


def record(name: str, values: dict[str, object]) -> None:
    """Merge ``{name: values}`` into the JSON file that ``VARIATIONS_FIGURES`` names, if any."""
    place = os.environ.get(VARIABLE)
    if not place:
        return
    path = Path(place)
    figures = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(figures | {name: values}, indent=2, sort_keys=True) + "\n")
