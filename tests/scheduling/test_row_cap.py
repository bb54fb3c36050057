"""The row cap: found where growing a step stops to pay, lowered where memory runs out."""

import math

from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.row_cap import CALM_STEPS, ROWS_TRIED, RowCap, find_row_cap


def test_growth_stops_where_two_doublings_gain_too_little() -> None:
    times = {2: 1.0, 4: 1.2, 8: 1.6, 16: 3.1, 32: 6.3, 64: 6.3}
    timed: list[int] = []

    def seconds(rows: int) -> float:
        timed.append(rows)
        return times[rows]

    assert find_row_cap(seconds) == 8
    assert timed == [2, 4, 8, 16, 32]


def test_one_busy_moment_does_not_stop_it() -> None:
    times = {2: 1.0, 4: 2.5, 8: 1.6, 16: 3.1, 32: 6.3}
    assert find_row_cap(times.__getitem__) == 8


def test_a_machine_that_gains_nothing_still_runs_one_sample() -> None:
    assert find_row_cap(float) == 2


def test_a_step_that_does_not_fit_ends_the_growth() -> None:
    assert find_row_cap(lambda rows: 1.0 if rows <= 16 else math.inf) == 16


def test_growth_ends_at_the_largest_step() -> None:
    assert find_row_cap(lambda rows: 1.0) == ROWS_TRIED[-1]


@given(st.lists(st.floats(0.01, 10), min_size=7, max_size=7))
def test_the_times_that_were_measured_give_the_same_cap_again(seconds: list[float]) -> None:
    table: dict[int, float] = {}

    def measured(rows: int) -> float:
        table[rows] = seconds[rows.bit_length() - 2]
        return table[rows]

    cap = find_row_cap(measured)
    assert find_row_cap(lambda rows: table.get(rows, math.inf)) == cap


def test_a_shortage_halves_the_rows_down_to_one_sample() -> None:
    cap = RowCap(16)
    cap.lower(12)
    assert cap.rows == 6
    cap.lower(16)  # of an earlier, larger step: the cap never rises by a shortage
    assert cap.rows == 6
    for _ in range(3):
        cap.lower(cap.rows)
    assert cap.rows == 2


def test_without_a_shortage_it_rises_a_sample_at_a_time_up_to_where_it_was() -> None:
    cap = RowCap(9)
    cap.lower(9)
    seen = [cap.rows]
    for _ in range(5 * CALM_STEPS):
        cap.stepped()
        if cap.rows != seen[-1]:
            seen.append(cap.rows)
    assert seen == [4, 6, 8, 9]


def test_a_new_shortage_begins_the_wait_anew() -> None:
    cap = RowCap(16)
    cap.lower(16)
    for _ in range(CALM_STEPS - 1):
        cap.stepped()
    cap.lower(8)
    for _ in range(CALM_STEPS - 1):
        cap.stepped()
    assert cap.rows == 4
    cap.stepped()
    assert cap.rows == 6
