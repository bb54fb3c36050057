"""Generations without an engine."""

from app.engine.generation import Generation


class NoOwner:
    """Hears of nothing that a generation's reader wants, and predicts nothing."""

    def cancelled(self, generation: Generation) -> None: ...
    def watched(self, generation: Generation) -> None: ...
    def finishes_in(self, generation: Generation) -> float:
        return 0.0
