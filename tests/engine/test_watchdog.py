"""Time limits of a worker, measured against what its work should take."""

import pytest

from app.engine.watchdog import Timeouts, Watchdog


@pytest.mark.parametrize(
    ("turn", "allowed"), [(None, 900.0), (0.1, 30.0), (7.0, 70.0)], ids=["starting", "floor", "10×"]
)
def test_the_limit_follows_the_length_of_a_turn(turn: float | None, allowed: float) -> None:
    now = 0.0
    watchdog = Watchdog(Timeouts(), lambda: now)
    now = 10.0
    assert watchdog.left(turn) == pytest.approx(allowed - 10)
    watchdog.progress()
    assert watchdog.left(turn) == pytest.approx(allowed)
