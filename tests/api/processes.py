"""Services in processes of their own, as people run them."""

import os
import subprocess
import sys
from typing import Final

SERVE: Final = (
    "from app.api.server import serve; from app.settings import Settings; serve(Settings())"
)


def launch(code: str = SERVE, **settings: str) -> subprocess.Popen[str]:
    """Run Python code that serves, on a free port unless told otherwise."""
    environment = {f"VARIATIONS_{name.upper()}": text for name, text in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        # A tiny model gains nothing from a second thread and waits for it on a busy machine.
        env={**os.environ, "OMP_NUM_THREADS": "1", "VARIATIONS_PORT": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    """What the process prints up to the line that holds this word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if word in line:
            return lines
        if "the worker exited" in line:
            process.terminate()
    raise AssertionError(f"it ended without saying {word!r}: {lines} {process.communicate()[1]}")


def url_in(lines: list[str]) -> str:
    """The address in ``variations: listening on URL (…)``."""
    return lines[0].split()[3]


def assert_clean_end(process: subprocess.Popen[str]) -> None:
    """It ends by itself, with status 0 and without a traceback."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
