"""The settings as the commands read them."""

import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from app.settings import Settings

_PREFIX: Final = "VARIATIONS_"
_LIKENESS: Final = 0.8
"""From which on a name is a setting misspelt; others may be somebody else's, as Kubernetes' are."""


def settings_or_exit(*variables: str, **given: Any) -> "Settings":
    """The settings, or a line for each that is wrong and exit status 2.

    A variable of the environment whose name is nearly that of a setting is told on the standard
    error, unless it is among ``variables``, which the command itself reads.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from app.settings import Settings  # noqa: PLC0415

    for name, meant in _misspelt(os.environ.keys() - variables, Settings.model_fields):
        typer.echo(f"There is no setting {name}, so it is ignored; is {meant} meant?", err=True)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            secret = problem["loc"][:1] == ("api_keys",)
            name = "".join(f"{_PREFIX}{part}: ".upper() for part in problem["loc"][:1])
            given = problem["input"]
            shown = f", not {given[:80]!r}" if isinstance(given, str) and not secret else ""
            typer.echo(name + problem["msg"].removeprefix("Value error, ") + shown, err=True)
        raise typer.Exit(2) from None


def _misspelt(variables: Iterable[str], fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Variables of the environment that are no settings, each with the setting it resembles."""
    known = [field.upper() for field in fields]
    for variable in sorted(variables):
        name = variable.upper().removeprefix(_PREFIX)
        if variable.upper().startswith(_PREFIX) and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=_LIKENESS):
                yield variable, _PREFIX + meant
