"""The forecast against the batcher itself, run step by step."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.parameters import Fit, Mix, Parameters, Scheduler
from app.scheduling.batcher import Batcher, Ticket, encoded_now, tickets
from app.scheduling.costs import Costs
from app.scheduling.forecast import Forecast, Span, Waiting, forecast

SIZES = ((64, 64), (128, 64), (64, 128))


def asked(
    n: int = 1,
    steps: int = 4,
    guidance: float = 3.0,
    size: tuple[int, int] = SIZES[0],
    images: int = 1,
    until: float = 1.0,
) -> Parameters:
    return Parameters(
        n, guidance, steps, Scheduler.DDIM, 0, *size, Fit.SQUASH,
        weight=(1 / images,) * images, mix=Mix.ROWS, guidance_end=until,
    )  # fmt: skip


def known_costs() -> Costs:
    """A step of r rows takes 0.1 r seconds, an encode 1, a decode 2."""
    costs = Costs()
    table = {rows: 0.1 * rows for rows in (2, 4, 8, 16)}
    costs.measured(SIZES[0], table, encode=1.0, decode=2.0)
    return costs


def test_one_request_takes_its_encode_its_steps_and_its_decode() -> None:
    spans = forecast(Batcher([2, 4]), [Waiting("a", asked())], [], known_costs(), 2)
    assert spans["a"].started == pytest.approx(1.0)
    assert spans["a"].finished == pytest.approx(1.0 + 4 * 0.2 + 2.0)


def test_rows_and_pictures_count_as_they_are() -> None:
    wanted = asked(images=3, until=0.5)
    spans = forecast(Batcher([2, 3, 4]), [Waiting("a", wanted)], [], known_costs(), 2)
    assert spans["a"].started == pytest.approx(3 * 1.0)
    assert spans["a"].finished == pytest.approx(3 * 1.0 + 2 * 0.4 + 2 * 0.3 + 2.0)


def test_a_start_from_a_picture_is_encoded_too() -> None:
    costs, wanted = known_costs(), replace(asked(steps=4), strength=0.5)
    span = forecast(Batcher([2]), [Waiting("a", wanted)], [], costs, 2)["a"]
    assert span.started == pytest.approx(1.0 + 2.0)  # a decode, until one has been seen
    assert span.finished == pytest.approx(1.0 + 2.0 + 2 * 0.2 + 2.0)
    costs.learn_latents(SIZES[0], 1.0)
    span = forecast(Batcher([2]), [Waiting("a", wanted)], [], costs, 2)["a"]
    assert span.started == pytest.approx(1.0 + 1.8)


def test_past_the_cap_a_request_waits_for_those_before_it() -> None:
    both = [Waiting("a", asked()), Waiting("b", asked())]
    spans = forecast(Batcher([2]), both, [], known_costs(), 2)
    assert spans["b"].started == pytest.approx(2 * 1.0 + 4 * 0.2 + 2.0)


def test_beside_the_steps_decodes_hold_up_nobody_else() -> None:
    costs = known_costs()
    costs.beside = True
    both = [Waiting("short", asked(steps=2)), Waiting("long", asked(steps=4))]
    spans = forecast(Batcher([2, 4]), both, [], costs, 2)
    assert spans["short"].started == pytest.approx(1.0)
    # Its decode waits for the second encode, and that of the other one for its own.
    assert spans["short"].finished == pytest.approx(2 * 1.0 + 2.0)
    assert spans["long"].finished == pytest.approx(2 * 1.0 + 2 * 2.0)


def test_what_is_due_earlier_is_encoded_and_stepped_first() -> None:
    both = [Waiting("a", asked(), due=2.0), Waiting("b", asked(), due=1.0)]
    spans = forecast(Batcher([2]), both, [], known_costs(), 1)
    assert spans["b"].started == pytest.approx(1.0)
    # a is encoded after the first step of b.
    assert spans["a"].started == pytest.approx(1.0 + 0.2 + 1.0 + 3 * 0.2 + 2.0)


def test_what_only_waits_to_be_decoded_is_predicted_too() -> None:
    spans = forecast(Batcher([2]), [], tickets("a", asked(n=3)), known_costs(), 2)
    assert spans["a"].finished == pytest.approx(3 * 2.0)


# Against turns taken singly

parameters = st.builds(
    asked,
    n=st.integers(1, 5),
    steps=st.integers(1, 12),
    guidance=st.sampled_from([1.0, 3.0]),
    size=st.sampled_from(SIZES),
    images=st.integers(1, 3),
    until=st.sampled_from([0.5, 1.0]),
)
dues = st.sampled_from([0.0, 1.0, 2.0])
requests = st.lists(st.tuples(parameters, dues), max_size=6)

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
    for name, (asked_for, due) in enumerate(draw(requests)):
        for ticket in tickets(f"line {name}", asked_for, due):
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
    at_once=st.integers(1, 5),
)
def test_counting_equal_steps_together_changes_nothing(
    line: Batcher,
    to_encode: list[tuple[Parameters, float]],
    to_decode: list[tuple[Parameters, float]],
    costs: Costs,
    at_once: int,
) -> None:
    unencoded, undecoded = named(to_encode), finished(to_decode)
    before = [*line]
    spans = forecast(line, unencoded, undecoded, costs, at_once)
    assert [*line] == before
    expected = turn_by_turn(line.copy(), unencoded, undecoded, costs, at_once)
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
    at_once=st.integers(1, 5),
)
def test_a_further_request_is_predicted_as_if_all_had_been_run_forward_together(
    line: Batcher,
    to_encode: list[tuple[Parameters, float]],
    to_decode: list[tuple[Parameters, float]],
    further: list[tuple[Parameters, float]],
    costs: Costs,
    at_once: int,
) -> None:
    """And so is one after it, once the first is accepted."""
    unencoded, undecoded = named(to_encode), finished(to_decode)
    kept = Forecast(line, unencoded, undecoded, costs, at_once)
    whole = forecast(line, unencoded, undecoded, costs, at_once)
    assert kept.spans.keys() == whole.keys()
    for name, span in kept.spans.items():
        assert seconds_of(span) == pytest.approx(seconds_of(whole[name])), name
    for number, (asked_for, due) in enumerate(further):
        unencoded.append(Waiting(f"further {number}", asked_for, due))
        together = forecast(line, unencoded, undecoded, costs, at_once)
        span = kept.further(asked_for, due)
        assert seconds_of(span) == pytest.approx(seconds_of(together[f"further {number}"]))
        kept.append(f"further {number}", asked_for, due)
        assert kept.spans.keys() == together.keys()
        for name, accepted in kept.spans.items():
            assert seconds_of(accepted) == pytest.approx(seconds_of(together[name])), name


def named(asked_for: list[tuple[Parameters, float]]) -> list[Waiting]:
    """These requests, not encoded yet."""
    return [Waiting(f"encode {name}", *each) for name, each in enumerate(asked_for)]


def finished(asked_for: list[tuple[Parameters, float]]) -> list[Ticket]:
    """The samples of these requests, which have only to be decoded."""
    return [
        ticket
        for name, (parameters, _) in enumerate(asked_for)
        for ticket in tickets(f"decode {name}", parameters)
    ]


def seconds_of(span: Span) -> tuple[float, float]:
    """To its start and to its end."""
    return span.started, span.finished


def turn_by_turn(
    line: Batcher,
    unencoded: list[Waiting],
    undecoded: list[Ticket],
    costs: Costs,
    at_once: int,
) -> dict[str, tuple[float, float]]:
    """Start and end of every request, by turns that are taken singly."""
    now, to_decode = 0.0, [*undecoded]
    to_encode = sorted(unencoded, key=lambda waiting: waiting.due)
    started: dict[str, float] = {}
    finished: dict[str, float] = {}
    while to_encode or len(line) or to_decode:
        for waiting in encoded_now(to_encode, at_once, line):
            to_encode.remove(waiting)
            now += costs.encoding(waiting.parameters)
            for ticket in tickets(waiting.request_id, waiting.parameters, waiting.due):
                line.add(ticket)
        if batch := line.next():
            for ticket in batch.tickets:
                started.setdefault(ticket.request_id, now)
            now += costs.step(batch.size, batch.bucket)
            to_decode += line.advance(batch)
        chosen = [t for t in to_decode if t.size == to_decode[0].size][:at_once]
        for ticket in chosen:
            now += costs.decode(ticket.size)
            to_decode.remove(ticket)
        for ticket in chosen:
            finished[ticket.request_id] = now  # its last picture says it last
    return {name: (started.get(name, 0.0), end) for name, end in finished.items()}
