"""The forecast against the batcher itself, run step by step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.parameters import Fit, Parameters, Scheduler
from app.scheduling.batcher import Batcher, Ticket
from app.scheduling.costs import Costs
from app.scheduling.forecast import Forecast, Span, forecast, tickets

SIZES = ((64, 64), (128, 64), (64, 128))


def asked(
    n: int = 1, steps: int = 4, guidance: float = 3.0, size: tuple[int, int] = SIZES[0]
) -> Parameters:
    return Parameters(n, guidance, steps, Scheduler.DDIM, 0, *size, Fit.SQUASH)


def known_costs() -> Costs:
    """A step of r rows takes 0.1 r seconds, an encode 1, a decode 2."""
    costs = Costs()
    table = {rows: 0.1 * rows for rows in (2, 4, 8, 16)}
    costs.measured(SIZES[0], table, encode=1.0, decode=2.0)
    return costs


def test_one_request_takes_its_encode_its_steps_and_its_decode() -> None:
    spans = forecast(Batcher([2, 4]), [("a", asked())], [], known_costs(), 2)
    assert spans["a"].started == pytest.approx(1.0)
    assert spans["a"].finished == pytest.approx(1.0 + 4 * 0.2 + 2.0)


def test_past_the_cap_a_request_waits_for_those_before_it() -> None:
    spans = forecast(Batcher([2]), [("a", asked()), ("b", asked())], [], known_costs(), 2)
    # b is encoded after the first step of a, and steps once a has left.
    assert spans["b"].started == pytest.approx(1.0 + 0.2 + 1.0 + 3 * 0.2 + 2.0)


def test_what_only_waits_to_be_decoded_is_predicted_too() -> None:
    spans = forecast(Batcher([2]), [], tickets("a", asked(n=3)), known_costs(), 2)
    assert spans["a"].finished == pytest.approx(3 * 2.0)


# Against turns taken singly

requests = st.lists(
    st.builds(
        asked,
        n=st.integers(1, 5),
        steps=st.integers(1, 12),
        guidance=st.sampled_from([1.0, 3.0]),
        size=st.sampled_from(SIZES),
    ),
    max_size=6,
)

seconds = st.floats(0.001, 10.0)


@st.composite
def some_costs(draw: st.DrawFn) -> Costs:
    """Costs by which every size and bucket differs from the others."""
    costs = Costs()
    table = {rows: draw(seconds) for rows in (2, 4, 8, 16)}
    costs.measured(SIZES[0], table, encode=draw(seconds), decode=draw(seconds))
    for size in SIZES:
        costs.learn_step(size, 4, draw(seconds))
        costs.learn_decode(size, 1, draw(seconds))
    return costs


@st.composite
def lines(draw: st.DrawFn) -> Batcher:
    """A line that has been under way for a while, with a cap that may have been lowered."""
    largest = draw(st.integers(2, 16))
    line = Batcher(sorted({*draw(st.sets(st.integers(1, largest))), largest}))
    for name, parameters in enumerate(draw(requests)):
        for ticket in tickets(f"line {name}", parameters):
            line.add(ticket)
        for _ in range(draw(st.integers(0, 6))):
            if batch := line.next():
                line.advance(batch)
    line.cap = draw(st.integers(1, largest))
    return line


@settings(max_examples=400)
@given(
    line=lines(),
    to_encode=requests,
    to_decode=requests,
    costs=some_costs(),
    decoded_at_once=st.integers(1, 5),
)
def test_counting_equal_steps_together_changes_nothing(
    line: Batcher,
    to_encode: list[Parameters],
    to_decode: list[Parameters],
    costs: Costs,
    decoded_at_once: int,
) -> None:
    unencoded = [(f"encode {name}", parameters) for name, parameters in enumerate(to_encode)]
    undecoded = [
        ticket
        for name, parameters in enumerate(to_decode)
        for ticket in tickets(f"decode {name}", parameters)
    ]
    before = [*line]
    spans = forecast(line, unencoded, undecoded, costs, decoded_at_once)
    assert [*line] == before
    expected = turn_by_turn(line.copy(), unencoded, undecoded, costs, decoded_at_once)
    assert spans.keys() == expected.keys()
    for name, span in spans.items():
        assert (span.started, span.finished) == pytest.approx(expected[name]), name


@settings(max_examples=200)
@given(
    line=lines(),
    to_encode=requests,
    to_decode=requests,
    further=requests.filter(bool),
    costs=some_costs(),
    decoded_at_once=st.integers(1, 5),
)
def test_a_further_request_is_predicted_as_if_all_had_been_run_forward_together(
    line: Batcher,
    to_encode: list[Parameters],
    to_decode: list[Parameters],
    further: list[Parameters],
    costs: Costs,
    decoded_at_once: int,
) -> None:
    """And so is one behind it, once the first is accepted."""
    unencoded = [(f"encode {name}", parameters) for name, parameters in enumerate(to_encode)]
    undecoded = [
        ticket
        for name, parameters in enumerate(to_decode)
        for ticket in tickets(f"decode {name}", parameters)
    ]
    kept = Forecast(line, unencoded, undecoded, costs, decoded_at_once)
    whole = forecast(line, unencoded, undecoded, costs, decoded_at_once)
    assert kept.spans.keys() == whole.keys()
    for name, span in kept.spans.items():
        assert seconds_of(span) == pytest.approx(seconds_of(whole[name])), name
    for number, parameters in enumerate(further):
        unencoded.append((f"further {number}", parameters))
        together = forecast(line, unencoded, undecoded, costs, decoded_at_once)
        span = kept.behind(parameters)
        assert seconds_of(span) == pytest.approx(seconds_of(together[f"further {number}"]))
        kept.append(f"further {number}", parameters)
        accepted = kept.spans[f"further {number}"]
        assert seconds_of(accepted) == pytest.approx(seconds_of(span))


def seconds_of(span: Span) -> tuple[float, float]:
    """To its start and to its end."""
    return span.started, span.finished


def turn_by_turn(
    line: Batcher,
    unencoded: list[tuple[str, Parameters]],
    undecoded: list[Ticket],
    costs: Costs,
    decoded_at_once: int,
) -> dict[str, tuple[float, float]]:
    """Start and end of every request, by turns that are taken singly."""
    now, to_encode, to_decode = 0.0, [*unencoded], [*undecoded]
    started: dict[str, float] = {}
    finished: dict[str, float] = {}
    while to_encode or len(line) or to_decode:
        if to_encode:
            name, parameters = to_encode.pop(0)
            now += costs.encode
            for ticket in tickets(name, parameters):
                line.add(ticket)
        if batch := line.next():
            for ticket in batch.tickets:
                started.setdefault(ticket.request_id, now)
            now += costs.step(batch.size, batch.bucket)
            to_decode += line.advance(batch)
        chosen = [t for t in to_decode if t.size == to_decode[0].size][:decoded_at_once]
        for ticket in chosen:
            now += costs.decode(ticket.size)
            to_decode.remove(ticket)
        for ticket in chosen:
            finished[ticket.request_id] = now  # its last picture says it last
    return {name: (started.get(name, 0.0), end) for name, end in finished.items()}
