"""Where growing a step stops to pay."""

import math

from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.row_cap import find_knee, knee_of, powers_of_two


def test_growth_stops_where_two_doublings_gain_too_little() -> None:
    table = {2: 1.0, 4: 1.2, 8: 1.6, 16: 3.1, 32: 6.3, 64: 6.3}
    knee = find_knee(table.__getitem__)
    assert knee.cap == 8
    assert knee.step_seconds == {2: 1.0, 4: 1.2, 8: 1.6, 16: 3.1, 32: 6.3}


def test_one_busy_moment_does_not_stop_it() -> None:
    table = {2: 1.0, 4: 2.5, 8: 1.6, 16: 3.1, 32: 6.3}
    assert find_knee(table.__getitem__).cap == 8


def test_a_machine_that_gains_nothing_still_runs_one_sample() -> None:
    assert find_knee(float).cap == 2


def test_a_bucket_that_does_not_fit_ends_the_growth() -> None:
    knee = find_knee(lambda bucket: 1.0 if bucket <= 16 else math.inf)
    assert knee.cap == 16
    assert 32 not in knee.step_seconds


def test_growth_ends_at_the_largest_bucket() -> None:
    assert find_knee(lambda bucket: 1.0, largest=64).cap == 64


@given(st.lists(st.floats(0.01, 10), min_size=7, max_size=7))
def test_a_table_gives_the_same_knee_again(seconds: list[float]) -> None:
    first = find_knee(lambda bucket: seconds[bucket.bit_length() - 2])
    assert knee_of(first.step_seconds) == first


def test_powers_of_two() -> None:
    assert list(powers_of_two(1, 9)) == [1, 2, 4, 8]
