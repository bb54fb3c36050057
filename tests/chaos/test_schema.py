"""The service against its own OpenAPI document, by Schemathesis, all checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.chaos import Serve
from tests.support.figures import record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_every_answer_is_as_documented_and_none_is_a_server_error(serve: Serve) -> None:
    examples = os.environ.get("CHAOS_SCHEMA_EXAMPLES", "4000")
    with serve() as victim:
        worker = victim.service.worker_pid
        command = [str(Path(sys.executable).with_name("st"))]
        command += ["--config-file", str(HERE / "schemathesis.toml"), "run"]
        command += [f"{victim.url}/openapi.json", "--checks", "all", "--max-examples", examples]
        command += ["--no-color", "--continue-on-failure", "--seed", "1"]
        command += ["--phases", "examples,coverage,fuzzing"]
        command += ["--suppress-health-check", "filter_too_much"]  # our hook leaves out many
        run = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.chaos.schema_hooks"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
        assert victim.service.worker_pid == worker
    generated = re.search(r"(\d[\d,]*) generated", run.stdout)
    assert generated is not None
    cases = int(generated[1].replace(",", ""))
    assert cases > int(examples)
    record("the document", {"cases": cases, "failures": 0})
