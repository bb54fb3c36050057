"""What the engine is asked for comes out of its bytes as it went in."""

import io
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest

from app.api.stored.packing import pack, unpack
from tests.support.requests import SHORT_REQUEST, condition_for


def test_parameters_and_condition_come_out_as_they_went_in() -> None:
    wanted = replace(SHORT_REQUEST, guidance_scale=7.5)
    condition = condition_for(wanted)
    parameters, other = unpack(pack(wanted, condition))
    assert parameters == wanted
    assert type(parameters.scheduler) is type(wanted.scheduler)
    assert [row.weight for row in other.rows] == [row.weight for row in condition.rows]
    first, second = other.rows
    assert first.picture is not None
    assert first.picture.dtype == np.float32
    assert np.array_equal(first.picture, condition.rows[0].picture)  # type: ignore[arg-type]
    assert second.picture is None


def changed(old: str, new: str) -> bytes:
    """A packed request in whose description something stands in place of something else."""
    packed, again = pack(SHORT_REQUEST, condition_for(SHORT_REQUEST)), io.BytesIO()
    with ZipFile(io.BytesIO(packed)) as archive, ZipFile(again, "w") as copy:
        for name in archive.namelist():
            data = archive.read(name)
            copy.writestr(name, data.replace(old.encode(), new.encode()))
    return again.getvalue()


def test_a_field_that_is_not_there_takes_its_default() -> None:
    """``Wishes`` has the fields of ``Parameters``, and defaults."""
    description = '"class": "Parameters", "fields": {"n": 1, '
    bare, _ = unpack(changed(description, '"class": "Wishes", "fields": {'))
    assert bare.n == 1


@pytest.mark.parametrize("name", ["os", "np", "secrets", "replace", "Nobody"])
def test_only_classes_of_plain_data_are_made(name: str) -> None:
    with pytest.raises(ValueError, match="there is no"):
        unpack(changed('"class": "Parameters"', f'"class": "{name}"'))
