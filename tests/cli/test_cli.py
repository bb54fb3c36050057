"""The command line around its commands."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from app import __version__
from app.cli import app


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_where_the_system_is_not_meant_serve_says_which_are() -> None:
    """As on Windows, where Python has no such module."""
    code = "import sys; sys.modules['resource'] = None; sys.argv = ['variations', 'serve']\n"
    code += "from app.cli import app; app()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == ("The service runs on Linux and macOS; on Windows use WSL or Docker.\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--scheduler d", {"ddim", "deis", "dpmsolver++", "dpmsolver++_karras"}),
        ("--sh", {"--sheet"}),
    ],
)
def test_a_shell_completes_options_and_their_values(typed: str, offered: set[str]) -> None:
    words = f"variations generate {typed}"
    asking = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    ran = subprocess.run(
        [sys.executable, "-c", "from app.cli import app; app(prog_name='variations')"],
        env=os.environ | asking | {"_VARIATIONS_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ran.stdout.split()) == offered
