"""What a stream for OpenAI's clients says of a generation's events."""

import json
from dataclasses import replace
from typing import Any

import pytest

from app.api.renderers.openai import Images
from app.api.renderers.progress import Told
from app.api.schemas import Preview, Queued, Restarted, Step
from app.pictures.encode import OutputFormat
from tests.support.requests import SHORT_REQUEST

PREVIEW = Preview(index=1, b64_json="", media_type="image/jpeg", width=16, height=16)


@pytest.mark.parametrize(
    ("partials", "steps"),
    [(0, []), (1, [5]), (2, [4, 7]), (3, [3, 5, 8])],
)
def test_previews_are_spread_over_the_steps(partials: int, steps: list[int]) -> None:
    images = Images(replace(SHORT_REQUEST, n=2), OutputFormat.PNG, partials)
    words: dict[int, dict[str, Any]] = {}
    for done in range(1, 10):
        assert images(Told("step", Step(done=(0, done), of=10, finish_in=1.0))) == b""
        if said := images(Told("preview", PREVIEW)):
            name, data = said.decode().strip().split("\n")
            assert name == "event: image_edit.partial_image"
            words[done] = json.loads(data.removeprefix("data: "))
    assert list(words) == steps
    assert [one["partial_image_index"] for one in words.values()] == list(range(partials))
    assert {one["index"] for one in words.values()} <= {1}


def test_of_what_openai_has_no_event_nothing_is_said() -> None:
    images = Images(SHORT_REQUEST, OutputFormat.PNG, 3)
    for told in (Told("queued", Queued(position=1, start_in=2.0)), Told("restarted", Restarted())):
        assert images(told) == b""
