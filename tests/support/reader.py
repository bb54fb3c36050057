"""The code that the documentation shows, to be run as a reader would."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCES = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"http://(?:localhost|127\.0\.0\.1):8000|(?:localhost|127\.0\.0\.1):8000")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of code of a page, ``sh`` or ``python``."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: str) -> list[Snippet]:
    """All blocks of code of a page that the repository has."""
    text = (ROOT / page).read_text()
    return [
        Snippet(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCES.finditer(text)
    ]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who tries things in ``folder``, with a service at ``url``."""

    folder: Path
    url: str
    environment: dict[str, str]

    @classmethod
    def at(cls, folder: Path, url: str, **environment: str) -> "Reader":
        """A reader in a folder like a checkout, whose ``curl`` fails where the service does."""
        for name in ("docs", "examples"):
            (folder / name).symlink_to(ROOT / name)
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name in ("python", "python3"):
            _script(programs / name, f'exec {shlex.quote(sys.executable)} "$@"')
        _script(programs / "curl", 'PATH=${PATH#*:} exec curl --fail-with-body "$@"')
        environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "VARIATIONS_URL": url,
            **environment,
        }
        return cls(folder, url, os.environ | environment)

    def tries(self, snippet: Snippet) -> str:
        """What a snippet prints. Raises :class:`AssertionError` where it fails."""
        code = _HERE.sub(lambda found: self._address(found[0]), snippet.code)
        program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": ["python3", "-c"]}
        return self.runs(*program[snippet.language], code)

    def runs(self, *command: str) -> str:
        """What a command prints."""
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def _address(self, written: str) -> str:
        return self.url if written.startswith("http") else self.url.removeprefix("http://")


def _script(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
