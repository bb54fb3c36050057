"""Which pictures of a data set are trained on: by size and by the scores in its metadata."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.pictures.formats import first_picture, format_of
from app.training.sources import Raw

UNREADABLE = "unreadable"
_NAMES = {
    "aesthetic": ("aesthetic_score", "aesthetic", "aesthetics"),
    "watermark": ("pwatermark", "watermark"),
    "unsafe": ("punsafe", "unsafe", "nsfw"),
}
"""Columns of LAION's tables in which a score is found, whatever their case."""

_IN_WORDS = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
"""LAION-400M's NSFW column."""


def scores(facts: Mapping[str, Any]) -> dict[str, float]:
    """The aesthetic (1–10), watermark and unsafe (0–1) scores that a picture's metadata has."""
    lower = {key.lower(): value for key, value in facts.items()}
    found = {}
    for score, names in _NAMES.items():
        numbers = [_number(lower[name]) for name in names if name in lower]
        known = [number for number in numbers if number is not None]
        if known:
            found[score] = known[0]
    return found


def _number(value: object) -> float | None:
    """A score as a number, from a table's text too."""
    word = _IN_WORDS.get(str(value).lower())
    if word is not None:
        return word
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def size_of(raw: Raw) -> tuple[int, int] | None:
    """Width and height from the file's own header; None where it is no picture that is read."""
    name = format_of(raw.data)
    if name is None:
        return None
    try:
        return first_picture(raw.data, name).size
    except Exception:  # whatever a damaged file makes its walk stumble over
        return None


@dataclass(frozen=True, slots=True)
class Sieve:
    """Bounds that a picture must keep; None is no bound.

    ``min_size`` is of the shorter side in pixels. Where a score is bounded, pictures without that
    score are left out too.
    """

    min_size: int | None = None
    min_aesthetic: float | None = None
    max_watermark: float | None = None
    max_unsafe: float | None = None

    def reason(self, raw: Raw) -> str | None:
        """Why the picture is left out, as :data:`UNREADABLE` or in words; None if it is kept."""
        size = size_of(raw)
        if size is None:
            return UNREADABLE
        if self.min_size is not None and min(size) < self.min_size:
            return f"shorter side below {self.min_size}"
        known = scores(raw.facts)
        bounds = (
            ("aesthetic", self.min_aesthetic, 1, "below"),
            ("watermark", self.max_watermark, -1, "above"),
            ("unsafe", self.max_unsafe, -1, "above"),
        )
        for name, bound, sign, word in bounds:
            if bound is None:
                continue
            if name not in known:
                return f"no {name} score"
            if sign * known[name] < sign * bound:
                return f"{name} score {word} {bound:g}"
        return None
