"""The row cap: as few rows as nearly give the most rows a second, lowered where memory runs out."""

from app.scheduling.row_cap import (
    CALM_STEPS,
    LONGEST_STEP,
    LOOK_AGAIN_STEPS,
    SHORT_STEP,
    CapReason,
    RowCap,
    find_row_cap,
)


def test_the_fewest_rows_that_give_nearly_the_most_rows_a_second() -> None:
    one_core = {2: 0.0177, 4: 0.0228, 8: 0.034, 16: 0.0565, 32: 0.1028, 64: 0.2126}
    assert find_row_cap(one_core) == (32, CapReason.THROUGHPUT)
    two_cores = {2: 0.013, 4: 0.0162, 8: 0.0245, 16: 0.041, 32: 0.0765, 64: 0.15}
    assert find_row_cap(two_cores) == (32, CapReason.THROUGHPUT)
    a_large_gpu = {2: 0.005, 4: 0.008, 8: 0.0145, 16: 0.027, 32: 0.0514}
    assert find_row_cap(a_large_gpu) == (16, CapReason.THROUGHPUT)


def test_doublings_that_each_gain_little_are_not_added_up() -> None:
    times = {8: 0.4, 16: 0.78, 32: 1.52, 64: 2.97}
    assert find_row_cap(times)[0] == 8


def test_four_pictures_with_guidance_fit_where_their_step_is_short() -> None:
    no_gain = {rows: SHORT_STEP * rows / 15 for rows in (2, 4, 8, 16)}
    assert find_row_cap(no_gain) == (8, CapReason.ONE_REQUEST)
    long = {rows: LONGEST_STEP * rows / 5 for rows in (2, 4, 8, 16)}
    assert find_row_cap(long) == (4, CapReason.ONE_REQUEST)
    longer = {rows: LONGEST_STEP * rows for rows in (2, 4)}
    assert find_row_cap(longer) == (2, CapReason.THROUGHPUT)


def test_two_such_requests_fit_where_their_step_is_short() -> None:
    beside_others = {2: 0.0155, 4: 0.023, 8: 0.0385, 16: 0.077, 32: 0.147}
    assert find_row_cap(beside_others) == (16, CapReason.TWO_REQUESTS)
    assert find_row_cap({2: 0.2, 4: 0.4, 8: 0.8}) == (8, CapReason.ONE_REQUEST)


def test_there_are_no_more_rows_than_the_cores_are_worth() -> None:
    waiting_for_each_other = {16: 0.103, 32: 0.181, 64: 0.331, 128: 0.628}
    assert find_row_cap(waiting_for_each_other)[0] == 64
    assert find_row_cap(waiting_for_each_other, most=32) == (32, CapReason.THROUGHPUT)


def test_where_more_does_not_fit_memory_is_the_reason() -> None:
    gains = {2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}
    assert find_row_cap(gains, fits=False) == (16, CapReason.MEMORY)
    no_gain = {2: 3.0, 4: 6.0, 8: 12.0}
    assert find_row_cap(no_gain, fits=False) == (2, CapReason.THROUGHPUT)


MEASURED = {2: 0.02, 4: 0.022, 8: 0.03, 16: 0.05, 32: 0.095, 64: 0.19}


def test_it_is_found_again_by_what_steps_take() -> None:
    cap = RowCap(16, MEASURED)
    for _ in range(LOOK_AGAIN_STEPS):
        cap.stepped(16, slowness=1.0)
    assert cap.rows == 16
    for _ in range(LOOK_AGAIN_STEPS // 2):
        cap.stepped(2, slowness=1.0)
        cap.stepped(16, slowness=2.0)
    assert cap.rows == 32


def test_a_machine_that_is_slower_for_all_rows_has_the_same_cap() -> None:
    cap = RowCap(16, MEASURED)
    for _ in range(LOOK_AGAIN_STEPS):
        cap.stepped(8, slowness=5.0)
    assert cap.rows == 16


def test_it_moves_by_a_factor_of_two_at_most() -> None:
    cap = RowCap(8, MEASURED)
    for _ in range(4 * LOOK_AGAIN_STEPS):
        cap.stepped(8, slowness=1.0)
    assert cap.rows == 16


def test_steps_whose_rows_were_not_measured_change_nothing() -> None:
    cap = RowCap(6)
    for _ in range(LOOK_AGAIN_STEPS):
        cap.stepped(6, slowness=9.0)
    assert cap.rows == 6


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
        cap.stepped(2, 1.0)
        if cap.rows != seen[-1]:
            seen.append(cap.rows)
    assert seen == [4, 6, 8, 9]


def test_a_new_shortage_begins_the_wait_anew() -> None:
    cap = RowCap(16)
    cap.lower(16)
    for _ in range(CALM_STEPS - 1):
        cap.stepped(2, 1.0)
    cap.lower(8)
    for _ in range(CALM_STEPS - 1):
        cap.stepped(2, 1.0)
    assert cap.rows == 4
    cap.stepped(2, 1.0)
    assert cap.rows == 6
