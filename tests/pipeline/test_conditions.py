"""A request's condition becomes rows, with as little work as it takes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from app.errors import GenerationFailed
from app.parameters import Condition, ConditionRow, EncoderInput
from app.pipeline import Pipeline
from app.pipeline.conditions import Conditions, Embedding
from tests.support.requests import encoder_input


class Counting:
    """An encoder and a fold that note what they are given."""

    def __init__(self) -> None:
        self.encoded: list[EncoderInput] = []
        self.folded = 0
        self.conditions = Conditions(self.encode, self.fold, length=4)

    def encode(self, pixels: EncoderInput) -> Embedding:
        self.encoded.append(pixels)
        return np.full(4, len(self.encoded), np.float32)

    def fold(self, embedding: Tensor) -> Tensor:
        self.folded += 1
        return embedding[None]


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


def test_each_distinct_picture_is_encoded_once() -> None:
    counting = Counting()
    first, second = encoder_input(1), encoder_input(2)
    rows = counting.conditions.rows(
        Condition(
            (
                ConditionRow(first, 2.0),
                ConditionRow(second, 1.0),
                ConditionRow(None, -1.0),
                ConditionRow(first, -1.0),
            )
        )
    )
    assert list(map(id, counting.encoded)) == [id(first), id(second)]
    assert [float(row.condition[0, 0]) for row in rows] == [1.0, 2.0, 0.0, 1.0]
    assert [row.weight for row in rows] == [2.0, 1.0, -1.0, -1.0]


def test_the_zero_embedding_is_folded_once_for_all_requests() -> None:
    counting = Counting()
    for _ in range(3):
        counting.conditions.rows(Condition((ConditionRow(None, 1.0),)))
    assert counting.folded == 1
    assert counting.encoded == []


def test_a_picture_that_cannot_be_embedded_fails_its_request(tiny: Pipeline) -> None:
    with pytest.raises(GenerationFailed, match="not finite"):
        tiny.condition(Condition.guided(np.full((3, 32, 32), np.inf, np.float32), 3.0))
