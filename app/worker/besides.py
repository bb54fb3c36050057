"""What the worker does between its steps, gathered for the report of the next one."""

from typing import TypedDict


class Report(TypedDict):
    """The fields of :class:`app.engine.messages.Stats` that this fills."""

    encoded: int
    encode_seconds: float
    decoded: int
    decode_seconds: float
    out_of_memory: tuple[str, ...]


class Besides:
    """Counts encodes, decodes and shortages of memory until they are taken."""

    def __init__(self) -> None:
        self._report = _nothing()

    def encoded(self, seconds: float) -> None:
        """A picture was encoded."""
        self._report["encoded"] += 1
        self._report["encode_seconds"] += seconds

    def decoded(self, pictures: int, seconds: float) -> None:
        """A micro-batch was decoded."""
        self._report["decoded"] += pictures
        self._report["decode_seconds"] += seconds

    def ran_out(self, stage: str) -> None:
        """Memory ran out in a stage."""
        self._report["out_of_memory"] += (stage,)

    def taken(self) -> Report:
        """All since it was last taken."""
        report, self._report = self._report, _nothing()
        return report


def _nothing() -> Report:
    return Report(encoded=0, encode_seconds=0.0, decoded=0, decode_seconds=0.0, out_of_memory=())
