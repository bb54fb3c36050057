"""The forecast against the batcher itself, run step by step."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batcher import Batcher
from app.engine.costs import Costs
from app.engine.forecast import foresee, tickets
from app.engine.messages import Ready, Stats
from app.parameters import Fit, Parameters, Scheduler
from tests.api.fakes import MODEL

SIZES = ((64, 64), (128, 64))
DECODED_AT_ONCE = 2


def asked(
    n: int = 1, steps: int = 4, guidance: float = 3.0, size: tuple[int, int] = SIZES[0]
) -> Parameters:
    return Parameters(n, guidance, steps, Scheduler.DDIM, 0, *size, Fit.SQUASH)


def known_costs() -> Costs:
    """A step of r rows takes 0.1 r seconds, an encode 1, a decode 2."""
    costs = Costs()
    table = {rows: 0.1 * rows for rows in (2, 4, 8, 16)}
    costs.measured(Ready(MODEL, (2, 4, 8, 16), table, 1.0, 2.0, DECODED_AT_ONCE))
    return costs


def test_one_request_takes_its_encode_its_steps_and_its_decode() -> None:
    spans = foresee(Batcher([2, 4]), [("a", asked())], [], known_costs(), 2)
    assert spans["a"].started == pytest.approx(1.0)
    assert spans["a"].finished == pytest.approx(1.0 + 4 * 0.2 + 2.0)


def test_past_the_cap_a_request_waits_for_those_before_it() -> None:
    spans = foresee(Batcher([2]), [("a", asked()), ("b", asked())], [], known_costs(), 2)
    # b is encoded after the first step of a, and steps once a has left.
    assert spans["b"].started == pytest.approx(1.0 + 0.2 + 1.0 + 3 * 0.2 + 2.0)


def test_what_only_waits_to_be_decoded_is_foreseen_too() -> None:
    spans = foresee(Batcher([2]), [], tickets("a", asked(n=3)), known_costs(), 2)
    assert spans["a"].finished == pytest.approx(3 * 2.0)


requests = st.lists(
    st.builds(
        asked,
        n=st.integers(1, 5),
        steps=st.integers(1, 12),
        guidance=st.sampled_from([1.0, 3.0]),
        size=st.sampled_from(SIZES),
    ),
    min_size=1,
    max_size=6,
)


@given(asked_for=requests, in_line=st.integers(0, 6), cap=st.integers(2, 10))
def test_counting_alike_steps_together_changes_nothing(
    asked_for: list[Parameters], in_line: int, cap: int
) -> None:
    line, costs = Batcher([cap]), known_costs()
    named = [(str(i), parameters) for i, parameters in enumerate(asked_for)]
    for name, parameters in named[:in_line]:
        for ticket in tickets(name, parameters):
            line.add(ticket)
    spans = foresee(line, named[in_line:], [], costs, DECODED_AT_ONCE)
    assert {name: span.finished for name, span in spans.items()} == pytest.approx(
        step_by_step(line.copy(), deque(named[in_line:]), costs, dict(named))
    )


def step_by_step(
    line: Batcher,
    unencoded: deque[tuple[str, Parameters]],
    costs: Costs,
    parameters: dict[str, Parameters],
) -> dict[str, float]:
    """The same turns, taken singly."""
    now, undecoded, finished = 0.0, list(tickets("", asked(n=1)))[:0], {}
    left = {name: own.n for name, own in parameters.items()}
    while unencoded or len(line) or undecoded:
        if unencoded:
            name, own = unencoded.popleft()
            now += costs.encode
            for ticket in tickets(name, own):
                line.add(ticket)
        if batch := line.next():
            now += costs.step(batch.size, batch.bucket)
            undecoded += line.advance(batch)
        chosen = [t for t in undecoded if t.size == undecoded[0].size][:DECODED_AT_ONCE]
        for ticket in chosen:
            now += costs.decode(ticket.size)
            undecoded.remove(ticket)
        for ticket in chosen:
            left[ticket.request_id] -= 1
            if not left[ticket.request_id]:
                finished[ticket.request_id] = now
    return finished


# Costs


def stats(seconds: float, bucket: int = 4, size: tuple[int, int] = SIZES[0]) -> Stats:
    return Stats(seconds, bucket, bucket, size, (), 1, 0, 16)


def test_a_step_between_two_known_buckets_costs_what_lies_between() -> None:
    assert known_costs().step(SIZES[0], 6) == pytest.approx(0.6)
    assert known_costs().step(SIZES[0], 32) == pytest.approx(3.2)
    assert known_costs().step(SIZES[0], 1) == pytest.approx(0.2)


def test_another_size_costs_by_its_area_until_it_is_seen() -> None:
    costs = known_costs()
    assert costs.step(SIZES[1], 4) == pytest.approx(0.8)
    assert costs.decode(SIZES[1]) == pytest.approx(4.0)
    for _ in range(100):
        costs.learn(stats(0.5, size=SIZES[1]))
    assert costs.step(SIZES[1], 4) == pytest.approx(0.5, rel=0.01)


def test_costs_follow_what_is_seen_and_mind_no_single_surprise() -> None:
    costs = known_costs()
    costs.learn(stats(60.0))
    assert costs.step(SIZES[0], 4) < 0.8
    for _ in range(100):
        costs.learn(stats(0.2))
    assert costs.step(SIZES[0], 4) == pytest.approx(0.2, rel=0.01)


def test_before_anything_is_known_all_is_free() -> None:
    assert Costs().step(SIZES[0], 4) == Costs().decode(SIZES[0]) == Costs().encode == 0.0
