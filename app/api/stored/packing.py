"""What the engine is asked for, as bytes: JSON, and the arrays as ``.npy`` files beside it."""

import io
import json
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from app import parameters
from app.parameters import Condition, Parameters

_DESCRIPTION = "description.json"


def pack(wanted: Parameters, condition: Condition) -> bytes:
    """Both as one archive. Takes a while for large arrays; call it in a thread."""
    arrays: list[NDArray[Any]] = []
    description = json.dumps(_described((wanted, condition), arrays))
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as archive:
        archive.writestr(_DESCRIPTION, description)
        for number, array in enumerate(arrays):
            with archive.open(f"{number}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return packed.getvalue()


def unpack(packed: bytes) -> tuple[Parameters, Condition]:
    """What was packed. Only the classes of :mod:`app.parameters` are made of it, and nothing runs.

    A field that its class has got since takes its default. Raises :class:`ValueError`,
    :class:`TypeError` or :class:`KeyError` for what this version cannot read.
    """
    with ZipFile(io.BytesIO(packed)) as archive:
        arrays = []
        for number in range(len(archive.namelist()) - 1):
            with archive.open(f"{number}.npy") as file:
                arrays.append(np.lib.format.read_array(file, allow_pickle=False))
        wanted, condition = _made(json.loads(archive.read(_DESCRIPTION)), arrays)
    return wanted, condition


def _described(value: object, arrays: list[NDArray[Any]]) -> object:
    match value:
        case np.ndarray():
            # The same array again stays the same: a picture of several rows is encoded once.
            same = [number for number, array in enumerate(arrays) if array is value]
            if not same:
                arrays.append(value)
            return {"array": same[0] if same else len(arrays) - 1}
        case range():
            return {"range": [value.start, value.stop]}
        case Enum():
            return {"enum": type(value).__name__, "value": value.value}
        case tuple():
            return [_described(one, arrays) for one in value]
        case None | bool() | int() | float() | str():
            return value
        case _ if is_dataclass(value) and not isinstance(value, type):
            held = {one.name: _described(getattr(value, one.name), arrays) for one in fields(value)}
            return {"class": type(value).__name__, "fields": held}
    raise TypeError(f"a {type(value).__name__} cannot be packed")


def _made(value: Any, arrays: list[NDArray[Any]]) -> Any:
    match value:
        case {"array": number}:
            return arrays[number]
        case {"range": [start, stop]}:
            return range(start, stop)
        case {"enum": name, "value": one}:
            return _known(name)(one)
        case {"class": name, "fields": held}:
            return _known(name)(**{field: _made(one, arrays) for field, one in held.items()})
        case list():
            return tuple(_made(one, arrays) for one in value)
    return value


def _known(name: str) -> Any:
    kind = getattr(parameters, name, None)
    if not isinstance(kind, type) or not (is_dataclass(kind) or issubclass(kind, Enum)):
        raise ValueError(f"there is no {name[:40]!r}")
    return kind
