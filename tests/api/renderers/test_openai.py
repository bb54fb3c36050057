"""What a stream for OpenAI's clients says of a generation's events."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.api.renderers.openai import Images
from app.engine.generation import PreviewReady, Queued, Restarted, StepDone
from app.pictures.encode import OutputFormat
from tests.support.requests import SHORT_REQUEST
from tests.support.submissions import submission

PREVIEW = np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("partials", "steps"),
    [(0, []), (1, [5]), (2, [4, 7]), (3, [3, 5, 8])],
)
def test_previews_are_spread_over_the_steps(partials: int, steps: list[int]) -> None:
    images = Images(submission(replace(SHORT_REQUEST, n=2)), OutputFormat.PNG, partials)

    async def told() -> dict[int, dict[str, Any]]:
        words = {}
        for done in range(1, 10):
            assert await images.tell(StepDone((0, done), 10)) == b""
            if said := await images.tell(PreviewReady(1, PREVIEW)):
                name, data = said.decode().strip().split("\n")
                assert name == "event: image_edit.partial_image"
                words[done] = json.loads(data.removeprefix("data: "))
        return words

    words = asyncio.run(told())
    assert list(words) == steps
    assert [one["partial_image_index"] for one in words.values()] == list(range(partials))
    assert {one["index"] for one in words.values()} <= {1}


def test_of_what_openai_has_no_event_nothing_is_said() -> None:
    images = Images(submission(SHORT_REQUEST), OutputFormat.PNG, 3)
    for event in (Queued(1, 2.0), Restarted()):
        assert asyncio.run(images.tell(event)) == b""
