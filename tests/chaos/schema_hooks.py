"""Hooks for Schemathesis: a picture to send and the time to wait, which the document cannot say."""

import io
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image


def picture(colour: tuple[int, int, int], side: int) -> bytes:
    """A square of one colour as a file."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


level = strategies.integers(0, 255)
schemathesis.openapi.format(
    "binary",
    strategies.builds(picture, strategies.tuples(level, level, level), strategies.integers(1, 40)),
)


@schemathesis.hook
def filter_body(_context: Any, body: Any) -> bool:
    """Leave out what is wrong in JSON alone.

    In a form a list of one is sent as that one, and an empty list not at all. A field that is left
    empty takes its default, as the document says in words.
    """
    values = body.values() if isinstance(body, dict) else ()
    return not any(one == "" or (isinstance(one, list) and len(one) < 2) for one in values)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """A caller who will wait a microsecond gets the 503 that is promised, which is no error."""
    given = (case.headers or {}).get("x-request-timeout")
    try:
        hurried = 0 < float(given or "") < 60
    except (TypeError, ValueError):
        return
    if hurried:
        case.headers["x-request-timeout"] = "60"
