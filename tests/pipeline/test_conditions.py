"""A request's condition becomes rows, with as little work as it takes."""

import numpy as np
import pytest
import torch

from app.errors import GenerationFailed
from app.parameters import Condition, ConditionRow, EncoderInput
from app.pipeline import Pipeline
from app.pipeline.conditions import Embedding
from tests.support.requests import encoder_input


def test_guidance_is_two_rows_whose_weights_sum_to_one(tiny: Pipeline) -> None:
    picture, zero = tiny.condition(Condition.guided(encoder_input(), 3.0))
    assert (picture.weight, zero.weight) == (3.0, -2.0)
    assert picture.condition.shape == zero.condition.shape
    assert not torch.equal(picture.condition, zero.condition)


def test_without_guidance_there_is_one_row(tiny: Pipeline) -> None:
    [alone] = tiny.condition(Condition.guided(encoder_input(), 1.0))
    [guided, _] = tiny.condition(Condition.guided(encoder_input(), 3.0))
    assert alone.weight == 1.0
    assert torch.equal(alone.condition, guided.condition)


def test_each_distinct_picture_is_encoded_once(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[EncoderInput] = []
    encode = tiny.encode

    def counting(pixels: EncoderInput) -> Embedding:
        encoded.append(pixels)
        return encode(pixels)

    monkeypatch.setattr(tiny, "encode", counting)
    first, second = encoder_input(1), encoder_input(2)
    wanted = ((first, 2.0), (second, 1.0), (None, -1.0), (first, -1.0))
    rows = tiny.condition(Condition(tuple(ConditionRow(*row) for row in wanted)))
    assert list(map(id, encoded)) == [id(first), id(second)]
    assert [row.weight for row in rows] == [2.0, 1.0, -1.0, -1.0]
    assert rows[0].condition is rows[3].condition
    assert len({id(row.condition) for row in rows}) == 3


def test_the_zero_embedding_is_folded_once_for_all_requests(tiny: Pipeline) -> None:
    nothing = Condition((ConditionRow(None, 1.0),))
    [first], [second] = tiny.condition(nothing), tiny.condition(nothing)
    assert first.condition is second.condition


def test_a_picture_that_cannot_be_embedded_fails_its_request(tiny: Pipeline) -> None:
    with pytest.raises(GenerationFailed, match="not finite"):
        tiny.condition(Condition.guided(np.full((3, 32, 32), np.inf, np.float32), 3.0))
