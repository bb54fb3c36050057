"""Log lines of both processes."""

import json
import logging

import pytest

from app import logs


def test_a_log_line_in_json_has_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("info", "json", "api")
        logging.getLogger("app.x").info("done in %d", 3, extra={"request_id": "abc"})
        line = json.loads(capsys.readouterr().err)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "app.x",
        "message": "done in 3",
        "process": "api",
        "request_id": "abc",
    }
