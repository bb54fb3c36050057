"""A generation's result as JSON."""

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.api.renderers.answer import answer, render_json
from app.api.timeline import Timeline
from app.engine.generation import Result
from app.ipc.messages import Stage
from app.pictures import Picture
from app.pictures.encode import OutputFormat
from tests.support.requests import SHORT_REQUEST
from tests.support.submissions import submission

GREY: Picture = np.full((64, 64, 3), 128, np.uint8)


def rendered(
    *pictures: Picture | None,
    output_format: OutputFormat = OutputFormat.PNG,
    timeline: Timeline | None = None,
) -> dict[str, Any]:
    parameters = replace(SHORT_REQUEST, n=len(pictures))
    result = Result(pictures, (), steps=5)
    whole = answer(submission(parameters, timeline), result, output_format)
    body, headers = render_json(whole)
    assert headers == {"content-type": "application/json"}
    told: dict[str, Any] = json.loads(body)
    return told


@pytest.mark.parametrize("output_format", OutputFormat)
def test_a_picture_is_a_file_in_base64_of_the_format_that_was_asked_for(
    output_format: OutputFormat,
) -> None:
    (one,) = rendered(GREY, output_format=output_format)["variations"]
    with Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))) as image:
        assert image.format == output_format.value.upper()
        assert image.size == (one["width"], one["height"]) == (64, 64)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 128).max() <= 1
    assert one["media_type"] == output_format.media_type


def test_a_flagged_picture_is_null_and_keeps_its_index_and_seed() -> None:
    first, flagged, last = rendered(GREY, None, GREY)["variations"]
    assert (flagged["flagged"], flagged["b64_json"]) == (True, None)
    assert not first["flagged"]
    assert [one["index"] for one in (first, flagged, last)] == [0, 1, 2]
    assert [one["seed"] for one in (first, flagged, last)] == [7, 8, 9]


def test_an_answer_names_the_request_the_model_and_every_parameter() -> None:
    told = rendered(GREY)
    assert told["id"] == "a.b"
    assert told["model"] == {"id": "fake", "revision": "v1"}
    assert told["parameters"] == {
        "n": 1,
        "guidance_scale": 3.0,
        "num_inference_steps": 4,
        "scheduler": "ddim",
        "seed": 7,
        "width": 64,
        "height": 64,
        "weight": [1.0],
        "mix": "embedding",
        "negative_image": False,
        "guidance_start": 0.0,
        "guidance_end": 1.0,
        "strength": None,
        "fit": "squash",
        "output_format": "png",
    }


def test_the_timings_hold_every_stage_and_the_writing_of_the_files() -> None:
    timeline = Timeline()
    timeline.stages.append(Stage("denoise", 1.0, 3.5))
    timings = rendered(GREY, timeline=timeline)["timings"]
    assert (timings["denoise"], timings["queue"]) == (2.5, 0.0)
    assert (timings["predicted"], timings["steps"]) == (1.5, 5)
    assert 0 < timings["write"] < timings["total"]
