"""Modules that the engine keeps out of the API process."""

import subprocess
import sys

PROGRAM = """
import sys
import app.engine.engine, app.scheduling.batcher, app.scheduling.row_cap
heavy = {"torch", "diffusers", "transformers", "fastapi", "prometheus_client"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_the_engine_imports_neither_torch_nor_a_web_framework() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
