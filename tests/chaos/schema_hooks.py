"""What Schemathesis cannot know from the document: how to make a picture, and how patient to be."""

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
    """In a form a list of one is sent as that one, an empty one not at all: both may be right."""
    values = body.values() if isinstance(body, dict) else ()
    return not any(isinstance(value, list) and len(value) < 2 for value in values)


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
