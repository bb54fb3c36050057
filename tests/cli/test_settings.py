"""What the commands say of settings."""

import pytest
from typer.testing import CliRunner

from app.cli import app

WRONG = {"VARIATIONS_PORT": "none"}
"""Ends ``serve`` before it serves."""


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("VARIATIONS_API_KEY", "VARIATIONS_API_KEYS"), ("variations_modle", "VARIATIONS_MODEL")],
)
def test_a_misspelt_setting_is_told(variable: str, meant: str) -> None:
    ran = CliRunner().invoke(app, ["serve"], env=WRONG | {variable: "x"})
    assert f"There is no setting {variable}, so it is ignored; is {meant} meant?" in ran.stderr


@pytest.mark.parametrize("variable", ["VARIATIONS_SERVICE_HOST", "VARIATIONS_MODEL", "PORTS"])
def test_what_is_a_setting_or_somebody_elses_is_not(variable: str) -> None:
    ran = CliRunner().invoke(app, ["serve"], env=WRONG | {variable: "x"})
    assert "There is no setting" not in ran.stderr
    assert "VARIATIONS_PORT" in ran.stderr
