"""The settings as the commands read them."""

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.settings import Settings


def settings_or_exit(**given: Any) -> "Settings":
    """The settings, or a line for each that is wrong and exit status 2."""
    from pydantic import ValidationError  # noqa: PLC0415

    from app.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            secret = problem["loc"][:1] == ("api_keys",)
            name = "".join(f"VARIATIONS_{part}: ".upper() for part in problem["loc"][:1])
            given = problem["input"]
            shown = f", not {given[:80]!r}" if isinstance(given, str) and not secret else ""
            typer.echo(name + problem["msg"].removeprefix("Value error, ") + shown, err=True)
        raise typer.Exit(2) from None
