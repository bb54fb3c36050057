"""A contact sheet: each input with its variations beside it, in a picture."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from app.cli.inputs import write_whole
from app.errors import BadInput
from app.pictures.decode import decode

ROWS = 40
"""Inputs on one sheet; further ones go on further sheets."""

_CELL, _GAP, _TEXT = 160, 8, 12
_MAX_PIXELS = 100_000_000
_HEIGHT = _CELL + _TEXT + 2 * _GAP

_Cell = tuple[Image.Image | None, str]


class Sheet:
    """Sheets of ``total`` inputs, each written once all of its inputs are there.

    The first is ``path``; ``sheet.png`` is followed by ``sheet-2.png``.
    """

    def __init__(self, path: Path, total: int) -> None:
        self._path = path
        self._total = total
        self._rows: dict[int, list[_Cell]] = {}

    def add(self, position: int, path: Path, pictures: Sequence[tuple[int, bytes | None]]) -> None:
        """The input at ``path``, and the seed and the file of each of its variations."""
        cells = [(_opened(path), path.name)]
        cells += [
            (None if data is None else _thumbnail(data), f"seed {seed}") for seed, data in pictures
        ]
        self._rows[position] = cells
        page = position // ROWS
        members = range(page * ROWS, min(self._total, (page + 1) * ROWS))
        if all(each in self._rows for each in members):
            self._write(page, [self._rows.pop(each) for each in members])

    def _write(self, page: int, rows: list[list[_Cell]]) -> None:
        columns = max(map(len, rows))
        size = (columns * (_CELL + _GAP) + 2 * _GAP, len(rows) * _HEIGHT + _GAP)
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(_TEXT)
        for i, row in enumerate(rows):
            for j, (picture, label) in enumerate(row):
                # The inputs are set off by a wider gap.
                left, top = _GAP * (1 + (j > 0)) + j * (_CELL + _GAP), _GAP + i * _HEIGHT
                if picture:
                    sheet.paste(picture, (left, top))
                else:
                    draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), outline="grey")
                draw.text((left, top + _CELL + 2), _shortened(label, font), "black", font)
        file = io.BytesIO()
        sheet.save(file, format="PNG")
        name = f"{self._path.stem}-{page + 1}" if page else self._path.stem
        write_whole(self._path.with_name(f"{name}{self._path.suffix}"), file.getvalue())


def _opened(path: Path) -> Image.Image | None:
    """A small copy of the input, which may be no picture."""
    try:
        return _thumbnail(path.read_bytes())
    except (OSError, BadInput):
        return None


def _thumbnail(data: bytes) -> Image.Image:
    picture = Image.fromarray(decode(data, max_pixels=_MAX_PIXELS))
    return ImageOps.pad(picture, (_CELL, _CELL), color="white")


def _shortened(label: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The label, its middle left out where it is wider than a picture."""
    shortened, kept = label, len(label) // 2
    while kept > 1 and font.getlength(shortened) > _CELL:
        shortened = f"{label[:kept]}…{label[-kept:]}"
        kept -= 1
    return shortened
