"""Figures that the long tests measure, kept for the documents."""

import json
import os
import platform
from importlib.metadata import version
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
    figures |= {name: values, "measured on": machine()}
    path.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


def machine() -> dict[str, object]:
    """The machine that the last of the figures was measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
