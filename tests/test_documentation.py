"""What the documentation shows works, against the real service."""

from pathlib import Path

import pytest

from tests.support.processes import ServiceProcess
from tests.support.reader import ROOT, Reader, Snippet, snippets

pytestmark = pytest.mark.timeout(400)  # each loads libraries anew, on a busy machine slowly

PAGES = ("README.md", "docs/api.md", "docs/client.md", "examples/README.md")

NOT_HERE = {
    "make run\n": "installs an environment, and never ends",
    ".venv/bin/python -m app benchmark": "takes a minute of a machine with nothing else to do",
    "VARIATIONS_MODEL=lambdalabs": "downloads gigabytes",
    ".venv/bin/python -m app train variations": "takes a GPU and a night",
}
"""Beginnings of the only blocks that are not run, and why."""

SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]
RUN = [snippet for snippet in SNIPPETS if not snippet.code.startswith(tuple(NOT_HERE))]

EXAMPLES = {
    "curl.sh": {"variation.png"},
    "client_sync.py": {f"coffee-{seed}.png" for seed in (7, 8, 9, 10)},
    "client_async.py": {"coffee-*.webp"},
    "many_files.py": {"coffee-*.png", "rocket-*.png"},
    "contact_sheet.py": {"sheet.png"},
    "openai_sync.py": {"openai-0.png", "openai-1.png"},
    "openai_async.py": {"coffee-0.png", "coffee-1.png"},
    "openai_streaming.py": {f"stream-{i}.png" for i in range(3)},
}
"""The examples, and the names of the files that each writes."""


@pytest.fixture
def reader(tmp_path: Path, running: ServiceProcess, tiny_checkpoint: Path) -> Reader:
    return Reader.at(tmp_path, running.url, VARIATIONS_MODEL=str(tiny_checkpoint))


@pytest.mark.parametrize("snippet", RUN, ids=str)
def test_a_snippet_works_as_it_is_shown(snippet: Snippet, reader: Reader) -> None:
    before = set(reader.folder.iterdir())
    printed = reader.tries(snippet)
    assert printed or set(reader.folder.iterdir()) > before


def test_every_block_that_is_not_run_is_still_there() -> None:
    for beginning in NOT_HERE:
        assert any(snippet.code.startswith(beginning) for snippet in SNIPPETS), beginning


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_writes_its_pictures(name: str, reader: Reader) -> None:
    photo = "docs/pictures" if name == "many_files.py" else "docs/pictures/coffee.jpg"
    program = [] if name.endswith(".sh") else ["python3"]
    reader.runs(*program, f"examples/{name}", photo)
    for pattern in EXAMPLES[name]:
        assert list(reader.folder.glob(pattern))


def test_every_example_is_run_and_listed() -> None:
    files = {path.name for path in (ROOT / "examples").iterdir()} - {"README.md"}
    assert files == set(EXAMPLES)
    page = (ROOT / "examples" / "README.md").read_text()
    assert all(f"]({name})" in page for name in files)
