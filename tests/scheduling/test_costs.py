"""Costs are learned from what is seen, and guessed for what is not."""

import pytest

from app.scheduling.costs import Costs

SIZES = ((64, 64), (128, 64))


def known_costs() -> Costs:
    """A step of r rows takes 0.1 r seconds, an encode 1, a decode 2."""
    costs = Costs()
    costs.measured(SIZES[0], {rows: 0.1 * rows for rows in (2, 4, 8, 16)}, encode=1.0, decode=2.0)
    return costs


def test_a_step_between_two_known_buckets_costs_what_lies_between() -> None:
    assert known_costs().step(SIZES[0], 6) == pytest.approx(0.6)
    assert known_costs().step(SIZES[0], 32) == pytest.approx(3.2)
    assert known_costs().step(SIZES[0], 1) == pytest.approx(0.2)


def test_another_size_costs_by_its_area_until_it_is_seen() -> None:
    costs = known_costs()
    assert costs.step(SIZES[1], 4) == pytest.approx(0.8)
    assert costs.decode(SIZES[1]) == pytest.approx(4.0)
    for _ in range(100):
        costs.learn_step(SIZES[1], 4, 0.5)
    assert costs.step(SIZES[1], 4) == pytest.approx(0.5, rel=0.01)


def test_costs_follow_what_is_seen_and_mind_no_single_surprise() -> None:
    costs = known_costs()
    costs.learn_step(SIZES[0], 4, 60.0)
    assert costs.step(SIZES[0], 4) < 0.8
    for _ in range(100):
        costs.learn_step(SIZES[0], 4, 0.2)
    assert costs.step(SIZES[0], 4) == pytest.approx(0.2, rel=0.01)


def test_before_anything_is_known_all_is_free() -> None:
    assert Costs().step(SIZES[0], 4) == Costs().decode(SIZES[0]) == Costs().encode == 0.0


def test_the_decodes_of_each_size_are_learned_apart() -> None:
    costs = known_costs()
    costs.learn_decode(SIZES[0], pictures=2, seconds=5.0)
    costs.learn_decode(SIZES[1], pictures=1, seconds=9.0)
    assert costs.decode(SIZES[0]) == pytest.approx(2.1)
    assert costs.decode(SIZES[1]) == pytest.approx(5.16)  # of 4.2, twice the area, towards 9


def test_the_lower_of_two_costs_is_taken_over() -> None:
    lowest, costs = known_costs(), known_costs()
    costs.learn_step(SIZES[0], 4, 0.1)
    costs.learn_encode(3.0)
    lowest.lower_to(costs)
    assert lowest.step(SIZES[0], 4) == costs.step(SIZES[0], 4)
    assert lowest.encode == 1.0
