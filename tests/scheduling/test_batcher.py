"""The policy of :mod:`app.scheduling.batcher`, by example and over generated schedules."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.parameters import Fit, Mix, Parameters, Phases, Scheduler, Size
from app.scheduling.batcher import Batch, Batcher, Ticket, encoded_next, encoded_now
from app.scheduling.forecast import Waiting

SMALL, LARGE, WIDE = (64, 64), (128, 128), (128, 64)


def ticket(
    request_id: str, index: int = 0, *, size: Size = SMALL, rows: int = 2, steps: int = 3
) -> Ticket:
    return Ticket(request_id, index, size, ((steps, rows),))


def rows_by_call(ticket: Ticket) -> list[int]:
    return [rows for calls, rows in ticket.phases for _ in range(calls)]


def steps_of(ticket: Ticket) -> int:
    return sum(calls for calls, _ in ticket.phases)


def asked(images: int) -> Parameters:
    weight = (1 / images,) * images
    return Parameters(1, 3.0, 4, Scheduler.DDIM, 0, *SMALL, Fit.SQUASH, weight=weight)


def in_rows(rows: int) -> Parameters:
    return replace(asked(rows), guidance_scale=1.0, mix=Mix.ROWS)


def step(batcher: Batcher) -> Batch:
    batch = batcher.next()
    assert batch is not None
    batcher.advance(batch)
    return batch


def names(batch: Batch) -> list[str]:
    return [ticket.request_id for ticket in batch.tickets]


# By example


def test_an_empty_line_has_no_next_step() -> None:
    assert Batcher([8]).next() is None


def test_a_newcomer_joins_the_next_step() -> None:
    batcher = Batcher([8])
    batcher.add(ticket("first"))
    assert names(step(batcher)) == ["first"]
    batcher.add(ticket("second"))
    assert names(step(batcher)) == ["first", "second"]


def test_samples_leave_after_their_own_number_of_steps() -> None:
    batcher = Batcher([8])
    short, long = ticket("short", steps=1), ticket("long", steps=2)
    batcher.add(short)
    batcher.add(long)
    first = batcher.next()
    assert first is not None
    assert batcher.advance(first) == [short]
    second = batcher.next()
    assert second is not None
    assert batcher.advance(second) == [long]
    assert len(batcher) == 0


def test_past_the_cap_samples_wait_in_order() -> None:
    batcher = Batcher([4])
    for name in "abc":
        batcher.add(ticket(name))
    batch = step(batcher)
    assert names(batch) == ["a", "b"]
    assert batch.waiting_rows == 2


def test_a_smaller_sample_does_not_overtake() -> None:
    batcher = Batcher([3])
    batcher.add(ticket("a", rows=2))
    batcher.add(ticket("b", rows=2))
    batcher.add(ticket("c", rows=1))
    assert names(step(batcher)) == ["a"]


def test_a_sample_wider_than_the_cap_runs_alone() -> None:
    batcher = Batcher([2])
    batcher.add(ticket("a", rows=1))
    batcher.add(ticket("wide", rows=3, steps=1))
    batcher.add(ticket("c", rows=1))
    assert names(step(batcher)) == ["a"]
    batcher.cancel("a")
    batch = step(batcher)
    assert names(batch) == ["wide"]
    assert batch.bucket == 3
    assert names(step(batcher)) == ["c"]


def test_sizes_take_turns() -> None:
    batcher = Batcher([16])
    batcher.add(ticket("a", steps=9))
    batcher.add(ticket("b", steps=9, size=LARGE))
    batcher.add(ticket("c", steps=9))
    assert [names(step(batcher)) for _ in range(4)] == [["a", "c"], ["b"], ["a", "c"], ["b"]]


def test_the_cap_is_shared_by_all_sizes() -> None:
    batcher = Batcher([4])
    for name, size in (("a", SMALL), ("b", LARGE), ("c", SMALL)):
        batcher.add(ticket(name, size=size))
    assert names(step(batcher)) == ["a"]


def test_a_step_is_padded_to_the_smallest_bucket_that_holds_it() -> None:
    batcher = Batcher([2, 4, 8])
    assert [batcher.bucket(rows) for rows in (1, 2, 3, 5, 8, 9)] == [2, 2, 4, 8, 8, 9]


def test_a_sample_has_the_rows_of_its_phase() -> None:
    batcher = Batcher([8])
    batcher.add(Ticket("a", 0, SMALL, ((1, 1), (2, 3), (1, 2))))
    assert [step(batcher).rows for _ in range(4)] == [1, 3, 3, 2]
    assert len(batcher) == 0


def test_where_somebody_gains_a_row_the_last_may_be_put_aside() -> None:
    batcher = Batcher([4])
    batcher.add(Ticket("a", 0, SMALL, ((1, 1), (2, 3), (1, 1))))
    batcher.add(ticket("b"))
    batches = [step(batcher) for _ in range(5)]
    assert [names(batch) for batch in batches] == [["a", "b"], ["a"], ["a"], ["a", "b"], ["b"]]
    assert [batch.waiting_rows for batch in batches] == [0, 2, 2, 0, 0]


def test_an_encode_has_as_many_requests_as_their_pictures_fit() -> None:
    one, two, five = (Waiting(str(n), asked(n)) for n in (1, 2, 5))
    assert encoded_next([one, two, one, one], at_once=4) == [one, two, one]
    assert encoded_next([one, five], at_once=4) == [one]
    assert encoded_next([five, one], at_once=4) == [five]
    assert encoded_next([], at_once=4) == []


def test_an_encode_is_put_off_until_there_is_room_or_one_has_its_last_step() -> None:
    batcher = Batcher([4])
    waiting = [Waiting(str(number), asked(1), due=1.0) for number in range(6)]
    assert encoded_now(waiting, 4, batcher) == waiting[:4]
    batcher.add(ticket("one"))
    assert encoded_now(waiting, 4, batcher) == waiting[:4]
    batcher.add(ticket("other", steps=2))
    assert encoded_now(waiting, 4, batcher) == []
    assert encoded_now([replace(waiting[0], due=-1.0)], 4, batcher) != []
    for _ in range(2):
        step(batcher)
        assert encoded_now(waiting, 4, batcher) == waiting[:4]
    assert encoded_now([], 4, batcher) == []


def test_those_who_wait_make_no_room_by_their_last_step() -> None:
    batcher = Batcher([4])
    for number in range(20):
        batcher.add(ticket("one step", number, rows=1, steps=1))
    assert not batcher.takes(Waiting("newcomer", in_rows(1)))


def test_a_single_bucket_pads_every_step_to_it() -> None:
    batcher = Batcher([8])
    batcher.add(ticket("a", rows=1))
    assert step(batcher).bucket == 8


def test_a_cancelled_request_leaves_at_the_next_step_with_all_its_samples() -> None:
    batcher = Batcher([8])
    batcher.add(ticket("gone", 0))
    batcher.add(ticket("gone", 1))
    batcher.add(ticket("stays"))
    step(batcher)
    batcher.cancel("gone")
    assert names(step(batcher)) == ["stays"]


def test_a_cancel_between_a_step_and_its_end_is_harmless() -> None:
    batcher = Batcher([8])
    batcher.add(ticket("gone", steps=1))
    batcher.add(ticket("stays", steps=1))
    batch = batcher.next()
    assert batch is not None
    batcher.cancel("gone")
    assert [ticket.request_id for ticket in batcher.advance(batch)] == ["stays"]


def test_cancelling_the_unknown_is_harmless() -> None:
    Batcher([2]).cancel("never seen")


@pytest.mark.parametrize("buckets", [[], [0, 2], [4, 2], [2, 2]])
def test_buckets_must_ascend(buckets: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Batcher(buckets)


def test_the_same_sample_cannot_stand_in_line_twice() -> None:
    batcher = Batcher([2])
    batcher.add(ticket("a"))
    with pytest.raises(ValueError, match="already"):
        batcher.add(ticket("a"))


def test_a_lowered_cap_lets_fewer_take_part_until_it_is_raised_again() -> None:
    batcher = Batcher([2, 4, 8])
    for name in "abc":
        batcher.add(ticket(name, steps=9))
    batcher.cap = 4
    assert names(step(batcher)) == ["a", "b"]
    batcher.cap = 8
    assert names(step(batcher)) == ["a", "b", "c"]


def test_a_copy_goes_its_own_way() -> None:
    batcher = Batcher([8])
    batcher.add(ticket("a", steps=2))
    twin = batcher.copy()
    step(twin)
    step(twin)
    assert (len(twin), len(batcher)) == (0, 1)


def test_a_round_ends_where_somebody_gets_other_rows() -> None:
    batcher = Batcher([16])
    batcher.add(Ticket("a", 0, SMALL, ((2, 1), (2, 2))))
    batcher.add(ticket("b", steps=3, size=LARGE))
    batches = batcher.round()
    assert batcher.steps_to_a_change(batches) == 3
    assert batcher.advance_round(batches, 3) == []
    assert [(names(batch), batch.rows) for batch in batcher.round()] == [(["b"], 2), (["a"], 2)]


def test_a_round_has_a_step_of_each_size_and_ends_with_somebodys_last() -> None:
    batcher = Batcher([16])
    batcher.add(ticket("a", steps=9))
    batcher.add(ticket("b", steps=3, size=LARGE))
    batcher.add(ticket("c", steps=9))
    step(batcher)
    batches = batcher.round()
    assert [names(batch) for batch in batches] == [["b"], ["a", "c"]]
    assert batcher.steps_to_a_change(batches) == 5
    assert [ticket.request_id for ticket in batcher.advance_round(batches, 5)] == ["b"]


def test_an_empty_line_has_an_empty_round() -> None:
    assert Batcher([8]).round() == []


# Over generated schedules


@dataclass(frozen=True, slots=True)
class Event:
    """After ``delay`` steps a request arrives; ``cancelled_after`` steps later it is cancelled."""

    delay: int
    samples: int
    phases: Phases
    size: Size
    cancelled_after: int | None


def events(sizes: Sequence[Size], *, most_phases: int = 3) -> st.SearchStrategy[list[Event]]:
    phase = st.tuples(st.integers(1, 7), st.integers(1, 2))
    event = st.builds(
        Event,
        delay=st.integers(0, 4),
        samples=st.integers(1, 8),
        phases=st.lists(phase, min_size=1, max_size=most_phases).map(tuple),
        size=st.sampled_from(sizes),
        cancelled_after=st.none() | st.integers(0, 12),
    )
    return st.lists(event, min_size=1, max_size=8)


caps = st.integers(2, 12)


@dataclass(frozen=True, slots=True)
class Run:
    """The samples of each step, and everything that was ever in line."""

    batches: list[Batch]
    arrived: dict[Ticket, int]
    cancelled: dict[str, int]

    @property
    def taken(self) -> Counter[Ticket]:
        return Counter(ticket for batch in self.batches for ticket in batch.tickets)

    def finish(self, wanted: Ticket) -> int:
        return max(i for i, batch in enumerate(self.batches) if wanted in batch.tickets)


def play(cap: int, schedule: Sequence[Event]) -> Run:
    """Run a schedule to its end; a moment is a step taken or, with nobody in line, a pause."""
    batcher = Batcher([cap])
    run = Run([], {}, {})
    arrivals: dict[int, list[tuple[str, Event]]] = {}
    moment = 0
    for number, event in enumerate(schedule):
        moment += event.delay
        arrivals.setdefault(moment, []).append((str(number), event))
        if event.cancelled_after is not None:
            run.cancelled[str(number)] = moment + event.cancelled_after
    last, now = moment, 0
    while now <= last or len(batcher):
        for name, event in arrivals.get(now, []):
            for index in range(event.samples):
                sample = Ticket(name, index, event.size, event.phases)
                run.arrived[sample] = now
                batcher.add(sample)
        for name in (name for name, when in run.cancelled.items() if when == now):
            batcher.cancel(name)
        batch = batcher.next()
        run.batches.append(batch or Batch((), SMALL, 0, 0, 0))
        if batch:
            batcher.advance(batch)
        now += 1
        assert now < 10_000, "the line never empties"
    return run


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_every_sample_gets_exactly_its_steps(cap: int, schedule: list[Event]) -> None:
    run = play(cap, schedule)
    for sample in run.arrived:
        if sample.request_id in run.cancelled:
            assert run.taken[sample] <= steps_of(sample)
        else:
            assert run.taken[sample] == steps_of(sample)


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_no_step_exceeds_the_cap_or_mixes_sizes(cap: int, schedule: list[Event]) -> None:
    taken: Counter[Ticket] = Counter()
    for batch in play(cap, schedule).batches:
        rows = sum(rows_by_call(ticket)[taken[ticket]] for ticket in batch.tickets)
        assert batch.rows == rows <= cap
        taken.update(batch.tickets)
        assert {ticket.size for ticket in batch.tickets} <= {batch.size}


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE], most_phases=1))
def test_nobody_starves_once_running(cap: int, schedule: list[Event]) -> None:
    run = play(cap, schedule)
    sizes = len({event.size for event in schedule})
    for sample in run.taken:
        steps = [i for i, batch in enumerate(run.batches) if sample in batch.tickets]
        assert all(later - earlier <= sizes for earlier, later in pairwise(steps))


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_a_wait_is_bounded_by_those_before_in_line(cap: int, schedule: list[Event]) -> None:
    run = play(cap, schedule)
    sizes = len({event.size for event in schedule})
    line = list(run.arrived)
    for position, sample in enumerate(line):
        if sample.request_id in run.cancelled:
            continue
        work = sum(steps_of(other) for other in line[: position + 1])
        assert run.finish(sample) - run.arrived[sample] < sizes * work


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_nobody_is_overtaken(cap: int, schedule: list[Event]) -> None:
    """Within one size, whoever arrived first takes part in every step that a later one does."""
    run = play(cap, schedule)
    line = list(run.arrived)
    done: Counter[Ticket] = Counter()
    for now, batch in enumerate(run.batches):
        if not batch.tickets:
            continue
        latest = max(line.index(sample) for sample in batch.tickets)
        for sample in line[:latest]:
            gone = run.cancelled.get(sample.request_id, now + 1) <= now
            finished = done[sample] == steps_of(sample)
            assert gone or finished or sample.size != batch.size or sample in batch.tickets
        done.update(batch.tickets)


@given(cap=caps, schedule=events([SMALL], most_phases=1))
def test_cancelling_delays_nobody(cap: int, schedule: list[Event]) -> None:
    disturbed = play(cap, schedule)
    calm = play(cap, [replace(event, cancelled_after=None) for event in schedule])
    for sample in calm.arrived:
        if sample.request_id not in disturbed.cancelled:
            assert disturbed.finish(sample) <= calm.finish(sample)


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_a_cancelled_request_takes_no_further_step(cap: int, schedule: list[Event]) -> None:
    run = play(cap, schedule)
    for now, batch in enumerate(run.batches):
        for sample in batch.tickets:
            assert run.cancelled.get(sample.request_id, now + 1) > now


@given(cap=caps, schedule=events([SMALL, LARGE, WIDE]))
def test_a_round_is_what_single_steps_come_to(cap: int, schedule: list[Event]) -> None:
    together, singly = Batcher([cap]), Batcher([cap])
    for number, event in enumerate(schedule):
        for index in range(event.samples):
            sample = Ticket(str(number), index, event.size, event.phases)
            together.add(sample)
            singly.add(sample)
        for _ in range(event.delay):
            batches = together.round()
            steps = together.steps_to_a_change(batches) if batches else 0
            finished = together.advance_round(batches, steps) if batches else []
            for count in range(steps, 0, -1):
                batch = singly.next()
                assert batch is not None
                assert singly.advance(batch) == (finished if count == 1 else [])
            assert [*together] == [*singly]
            assert together.next() == singly.next()


@given(
    tickets=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=8),
    rows=st.integers(1, 4),
    due=st.integers(0, 3),
    cap=st.integers(1, 8),
)
def test_a_line_in_which_nobody_has_the_last_step_takes_whom_it_would_run(
    tickets: list[tuple[int, int]], rows: int, due: int, cap: int
) -> None:
    batcher = Batcher([8])
    batcher.cap = cap
    for index, (of_other, due_of_other) in enumerate(tickets):
        batcher.add(replace(ticket("other", index, rows=of_other), due=due_of_other))
    takes = batcher.takes(Waiting("newcomer", in_rows(rows), due))
    newcomer = replace(ticket("newcomer", rows=rows), due=due)
    batcher.add(newcomer)
    assert takes == (newcomer in list(batcher.running()))
