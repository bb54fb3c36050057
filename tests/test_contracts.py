"""The import contracts notice an import that crosses the architecture."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pictures/fit.py", "import torch"),
        ("pictures/decode.py", "import fastapi"),
        ("api/renderers/answer.py", "from app.pipeline import Pipeline"),
        ("scheduling/costs.py", "import numpy"),
        ("scheduling/costs.py", "from app import errors"),
        ("engine/mirror.py", "import starlette"),
        ("client/call.py", "from app.api.schemas import Problem"),
    ],
)
def test_an_import_across_a_border_breaks_a_contract(
    tmp_path: Path, module: str, line: str
) -> None:
    code = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=code)
    shutil.copytree(ROOT / "tests" / "support", tmp_path / "tests" / "support", ignore=code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    changed = tmp_path / "app" / module
    changed.write_text(f"{line}\n{changed.read_text()}")
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    importer = f"app.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{importer} -> " in run.stdout or f"{importer} imports" in run.stdout
