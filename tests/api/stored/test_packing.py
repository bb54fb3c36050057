"""What the engine is asked for comes out of its bytes as it went in."""

import io
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest

from app.api.stored.packing import pack, unpack
from app.parameters import Condition
from tests.support.requests import SHORT_REQUEST, condition_for


def test_parameters_and_condition_come_out_as_they_went_in() -> None:
    wanted = replace(SHORT_REQUEST, guidance_scale=7.5)
    condition = condition_for(wanted)
    parameters, other = unpack(pack(wanted, condition))
    assert parameters == wanted
    assert type(parameters.scheduler) is type(wanted.scheduler)
    assert [row.weight for row in other.rows] == [row.weight for row in condition.rows]
    assert [row.calls for row in other.rows] == [row.calls for row in condition.rows]
    first, second = other.rows
    [(picture, weight)] = first.pictures
    assert picture.dtype == np.float32
    assert weight == 1.0
    assert np.array_equal(picture, condition.rows[0].pictures[0][0])
    assert second.pictures == ()


def test_a_picture_of_several_rows_comes_out_as_one() -> None:
    wanted = replace(SHORT_REQUEST, guidance_scale=7.5, guidance_end=0.5)
    condition = Condition.of(wanted, [np.zeros((3, 8, 8), np.float32)])
    _, other = unpack(pack(wanted, condition))
    assert [len(row.pictures) for row in other.rows] == [1, 0, 1]
    assert other.rows[0].pictures[0][0] is other.rows[2].pictures[0][0]


def changed(old: str, new: str) -> bytes:
    """A packed request in whose description something stands in place of something else."""
    packed, again = pack(SHORT_REQUEST, condition_for(SHORT_REQUEST)), io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as archive, ZipFile(again, "w") as copy:
        for name in archive.namelist():
            data = archive.read(name)
            copy.writestr(name, data.replace(old.encode(), new.encode()))
    return again.getvalue()


def test_a_field_that_is_not_there_takes_its_default() -> None:
    bare, _ = unpack(changed('"negative_image": false, ', ""))
    assert bare.negative_image is False


@pytest.mark.parametrize("name", ["os", "np", "secrets", "replace", "Nobody"])
def test_only_classes_of_plain_data_are_made(name: str) -> None:
    with pytest.raises(ValueError, match="there is no"):
        unpack(changed('"class": "Parameters"', f'"class": "{name}"'))
