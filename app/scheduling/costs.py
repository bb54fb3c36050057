"""Costs: seconds of each kind of the worker's work, learned from what it reports."""

from collections.abc import Mapping

from app.parameters import Parameters, Size

_WEIGHT = 0.2
"""Of a new observation, against all before it."""

_LARGEST_SURPRISE = 4.0
"""Times what was known: a longer step says more about the machine at that moment than about the
step."""


class Costs:
    """Seconds of a UNet call by picture size and bucket, of an encode and of a decode."""

    def __init__(self) -> None:
        self.encode = 0.0
        """Seconds of encoding one picture."""
        self.beside = False
        """Steps go on while pictures are encoded and decoded."""
        self._steps: dict[Size, dict[int, float]] = {}
        self._decodes: dict[Size, float] = {}
        self._latents: dict[Size, float] = {}

    def measured(
        self, size: Size, steps: Mapping[int, float], encode: float, decode: float
    ) -> None:
        """Take what a worker measured at its start for what is not known yet.

        ``steps`` maps buckets to seconds of a step, ``decode`` is for one picture of the size.
        """
        self._steps[size] = dict(steps) | self._steps.get(size, {})
        self._decodes.setdefault(size, decode)
        self.encode = self.encode or encode

    def learn_step(self, size: Size, bucket: int, seconds: float) -> None:
        """Move what is known of a step a little towards what was just seen."""
        self._steps.setdefault(size, {})[bucket] = _moved(self.step(size, bucket), seconds)

    def learn_encode(self, seconds: float) -> None:
        """The same for the encoding of one picture."""
        self.encode = _moved(self.encode, seconds)

    def learn_decode(self, size: Size, pictures: int, seconds: float) -> None:
        """The same for the decoding of some pictures together."""
        self._decodes[size] = _moved(self.decode(size), seconds / pictures)

    def learn_latents(self, size: Size, seconds: float) -> None:
        """The same for the encoding of a picture to the latents that samples start from."""
        self._latents[size] = _moved(self.latents(size), seconds)

    def lower_to(self, other: "Costs") -> None:
        """Take over each cost of ``other`` that is lower, or not known here."""
        self.encode = min(self.encode or other.encode, other.encode)
        for size, steps in other._steps.items():
            mine = self._steps.setdefault(size, {})
            mine.update({b: min(mine.get(b, seconds), seconds) for b, seconds in steps.items()})
        for known, seen in ((self._decodes, other._decodes), (self._latents, other._latents)):
            known.update({s: min(known.get(s, seconds), seconds) for s, seconds in seen.items()})

    def encoding(self, parameters: Parameters) -> float:
        """Seconds of encoding a request; 0 before anything is known."""
        starts = 0.0 if parameters.strength is None else self.latents(parameters.size)
        return parameters.images * self.encode + starts

    def step(self, size: Size, bucket: int) -> float:
        """Seconds of a step of ``bucket`` rows; 0 before anything is known."""
        if self._steps.get(size):
            return _at(self._steps[size], bucket)
        known = next((other for other in self._steps if self._steps[other]), None)
        return _at(self._steps[known], bucket) * _area(size, known) if known else 0.0

    def decode(self, size: Size) -> float:
        """Seconds of decoding and checking one picture; 0 before anything is known."""
        return _of_size(self._decodes, size) or 0.0

    def latents(self, size: Size) -> float:
        """Seconds of encoding one picture to latents; before one has been, those of a decode."""
        return _of_size(self._latents, size) or self.decode(size)


def _of_size(known: Mapping[Size, float], size: Size) -> float | None:
    """What is known of this size, or follows from another's."""
    if size in known:
        return known[size]
    other = next(iter(known), None)
    return known[other] * _area(size, other) if other else None


def _moved(known: float, seen: float) -> float:
    if known == 0.0:
        return seen
    return known + _WEIGHT * (min(seen, _LARGEST_SURPRISE * known) - known)


def _area(size: Size, other: Size) -> float:
    return size[0] * size[1] / (other[0] * other[1])


def _at(table: Mapping[int, float], bucket: int) -> float:
    """Seconds of ``bucket`` by ``table``: on a line between its neighbours, or past the last one.

    Below the smallest known bucket a step costs as much as that one, since launching it does.
    """
    below = [known for known in table if known <= bucket]
    above = [known for known in table if known > bucket]
    if not below:
        return table[min(above)]
    lower = max(below)
    if not above:
        return table[lower] * bucket / lower
    upper = min(above)
    share = (bucket - lower) / (upper - lower)
    return table[lower] + share * (table[upper] - table[lower])
