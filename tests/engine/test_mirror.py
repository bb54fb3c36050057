"""Who is due, who was running, and who is suspect: without a worker."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from app.engine.generation import Job
from app.engine.mirror import NEWCOMER, Backlog
from app.engine.quarantine import SECONDS, Quarantine
from app.engine.watchdog import Patience, Watchdog
from app.ipc.messages import DecodedSome, Encoded, Ready, Stats
from app.parameters import Fit, Parameters, Scheduler
from app.scheduling.batcher import Batcher
from app.scheduling.row_cap import CALM_STEPS, Ceiling
from tests.support.fakes import MODEL

PARAMETERS = Parameters(1, 3.0, 4, Scheduler.DDIM, 0, 64, 64, Fit.SQUASH)
EMBEDDING = np.zeros(4, np.float32)
PICTURE = np.zeros((8, 8, 3), np.uint8)
READY = Ready(MODEL, (2, 4), {2: 0.1, 4: 0.2}, 0.5, 0.5, 2)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def backlog(loop: asyncio.AbstractEventLoop) -> Backlog:
    """Four jobs, whose pictures are all there, and a worker that is ready."""
    backlog = Backlog()
    for name in "abcd":
        backlog.add(Job(name, PARAMETERS, name.encode(), loop.create_future(), PICTURE))
    backlog.worker_ready(READY)
    return backlog


def names(jobs: list[Job]) -> str:
    return "".join(job.request_id for job in jobs)


def submit_due(backlog: Backlog) -> str:
    due = backlog.due()
    for job in due:
        backlog.submit(job)
    return names(due)


def encode(backlog: Backlog, wanted: str) -> None:
    for name in wanted:
        job = backlog.get(name)
        assert job is not None
        backlog.encoded(job, Encoded(name, EMBEDDING, 0.5))


def die(backlog: Backlog, encoded: str) -> str:
    """A life in which the first of the line run, two at a time; who was running at its end."""
    backlog.worker_ready(READY)
    submit_due(backlog)
    encode(backlog, encoded)
    return names(backlog.worker_lost())


def test_every_job_with_a_picture_is_due_once_and_in_order(backlog: Backlog) -> None:
    first = backlog.get("a")
    assert first is not None
    first.source = None
    assert submit_due(backlog) == "bcd"
    assert submit_due(backlog) == ""


def test_running_are_those_in_the_step_and_the_next_to_be_encoded(backlog: Backlog) -> None:
    submit_due(backlog)
    encode(backlog, "ab")
    assert names(backlog.running()) == "abc"


def test_running_are_those_that_are_only_decoded_too(backlog: Backlog) -> None:
    submit_due(backlog)
    encode(backlog, "abcd")
    for _ in range(4):
        backlog.stepped(Stats(0.1, 4, 4, (64, 64), (("a", 0), ("b", 0)), 1, 4, cap=4))
    assert names(backlog.running()) == "abcd"


def test_a_turn_has_a_decode_as_long_as_anything_is_to_be_decoded(backlog: Backlog) -> None:
    submit_due(backlog)
    assert backlog.turn_seconds() == pytest.approx(0.5)
    encode(backlog, "ab")
    for calls in range(PARAMETERS.calls, 0, -1):
        assert backlog.turn_seconds() == pytest.approx(0.5 + 0.2 + 2 * 0.5), calls
        backlog.stepped(Stats(0.2, 4, 4, (64, 64), (("a", 0), ("b", 0)), 1, 0, cap=4))
    assert backlog.turn_seconds() == pytest.approx(0.5 + 2 * 0.5)


def test_what_a_request_takes_alone_knows_nothing_of_the_line(backlog: Backlog) -> None:
    alone = backlog.takes(PARAMETERS)
    steps = PARAMETERS.calls * (0.1 if PARAMETERS.rows * PARAMETERS.n <= 2 else 0.2)
    assert alone == pytest.approx(0.5 + steps + PARAMETERS.n * 0.5)
    encode(backlog, "abcd")
    assert backlog.takes(PARAMETERS) == alone


def test_costs_are_learned_apart(backlog: Backlog) -> None:
    backlog.costs.learn_decode(DecodedSome(2, (64, 64), 3.0))
    backlog.costs.learn_decode(DecodedSome(1, (128, 64), 2.0))
    assert backlog.costs.decode((64, 64)) == pytest.approx(0.7)
    assert backlog.costs.decode((128, 64)) > 1.0
    known = backlog.costs.encode
    for name in "ab":
        job = backlog.get(name)
        assert job is not None
        backlog.encoded(job, Encoded(name, EMBEDDING, None))
    assert backlog.costs.encode == known


def test_after_a_death_everything_is_due_again(backlog: Backlog) -> None:
    assert die(backlog, "ab") == "abc"
    assert submit_due(backlog) == "abcd"


def test_suspects_run_alone_one_at_a_time_before_everybody_else(backlog: Backlog) -> None:
    for _ in range(2):
        die(backlog, "ab")
    backlog.worker_ready(READY)
    for expected in "abc":
        assert submit_due(backlog) == expected
        assert submit_due(backlog) == ""
        job = backlog.get(expected)
        assert job is not None
        backlog.remove(job)
    assert submit_due(backlog) == "d"


def test_only_the_suspect_that_was_alone_is_convicted(backlog: Backlog) -> None:
    for _ in range(2):
        die(backlog, "ab")
    assert die(backlog, "a") == "a"
    assert [job.request_id for job in backlog if job.convicted] == ["a"]


def test_a_suspect_whose_picture_is_still_read_keeps_nobody_waiting(backlog: Backlog) -> None:
    first = backlog.get("a")
    assert first is not None
    first.deaths, first.source = 2, None
    assert submit_due(backlog) == "bcd"
    first.source = PICTURE
    assert submit_due(backlog) == ""
    for name in "bcd":
        job = backlog.get(name)
        assert job is not None
        backlog.remove(job)
    assert submit_due(backlog) == "a"


def leave(backlog: Backlog, name: str) -> None:
    job = backlog.get(name)
    assert job is not None
    assert job.abandon()
    backlog.leave(job)


def test_who_left_while_running_is_blamed_until_it_is_dropped(backlog: Backlog) -> None:
    submit_due(backlog)
    encode(backlog, "ab")
    leave(backlog, "a")
    leave(backlog, "d")  # the worker has not come to it
    assert names(backlog.worker_lost()) == "abc"
    backlog.worker_ready(READY)
    submit_due(backlog)
    encode(backlog, "b")
    leave(backlog, "b")
    backlog.dropped("b")
    assert names(backlog.worker_lost()) == "c"


def test_who_waited_behind_the_one_that_left_is_not_running_yet(backlog: Backlog) -> None:
    submit_due(backlog)
    encode(backlog, "abcd")
    running = names(backlog.running())
    assert running == "ab"
    leave(backlog, "a")
    assert names(backlog.running()) == running
    backlog.dropped("a")
    assert names(backlog.running()) == "bc"


def test_the_turn_of_the_one_that_left_is_awaited(backlog: Backlog) -> None:
    for name in "bcd":
        job = backlog.get(name)
        assert job is not None
        backlog.remove(job)
    submit_due(backlog)
    encode(backlog, "a")
    turn = backlog.turn_seconds()
    assert turn > backlog.costs.encode
    leave(backlog, "a")
    assert backlog.turn_seconds() == turn
    assert backlog.foresee(PARAMETERS)[NEWCOMER].started == backlog.costs.encode
    assert backlog.busy
    backlog.dropped("a")
    assert not backlog.busy


def test_an_answer_that_crosses_its_cancellation_clears_it(backlog: Backlog) -> None:
    submit_due(backlog)
    encode(backlog, "a")
    leave(backlog, "a")
    gone = backlog.made_for_nobody("a")
    assert gone is not None
    assert gone.request_id == "a"
    assert names(backlog.worker_lost()) == "b"


def test_the_next_to_be_encoded_is_the_one_that_was_sent_first(backlog: Backlog) -> None:
    first = backlog.get("a")
    assert first is not None
    first.source = None
    submit_due(backlog)
    first.source = PICTURE
    submit_due(backlog)
    assert names(backlog.running()) == "b"


def test_what_comes_after_a_cancellation_has_not_begun_before_it_is_heard_of(
    backlog: Backlog, loop: asyncio.AbstractEventLoop
) -> None:
    submit_due(backlog)
    encode(backlog, "abcd")
    for name in "abcd":
        leave(backlog, name)
    backlog.add(Job("e", PARAMETERS, b"e", loop.create_future(), PICTURE))
    assert submit_due(backlog) == "e"
    for name in "abcd":
        assert "e" not in names(backlog.running())
        backlog.dropped(name)
    assert names(backlog.worker_lost()) == "e"


def test_a_suspect_waits_until_the_worker_has_dropped_the_one_before(backlog: Backlog) -> None:
    for _ in range(2):
        die(backlog, "ab")
    backlog.worker_ready(READY)
    assert submit_due(backlog) == "a"
    leave(backlog, "a")
    assert submit_due(backlog) == ""
    backlog.dropped("a")
    assert submit_due(backlog) == "b"


def test_a_request_takes_as_little_as_it_ever_did(backlog: Backlog) -> None:
    before = backlog.takes(PARAMETERS)
    for _ in range(20):
        backlog.stepped(Stats(4.0, 4, 4, (64, 64), (), 1, 0, cap=4))
        backlog.stepped(Stats(4.0, 2, 2, (64, 64), (), 1, 0, cap=4))
    assert backlog.takes(PARAMETERS) == before
    assert backlog.foresee(PARAMETERS)[NEWCOMER].finished > 3 * before
    for _ in range(40):
        backlog.stepped(Stats(0.01, 2, 2, (64, 64), (), 1, 0, cap=4))
    assert backlog.takes(PARAMETERS) < before


def test_a_newcomer_is_foreseen_behind_everybody(backlog: Backlog) -> None:
    spans = backlog.foresee(PARAMETERS)
    assert max(spans, key=lambda name: spans[name].finished) == NEWCOMER
    assert set(spans) == {*"abcd", NEWCOMER}


def test_an_id_is_taken_only_once(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(ValueError, match="already waiting"):
        backlog.add(Job("a", PARAMETERS, b"", loop.create_future()))


# Its neighbours


def test_the_ceiling_halves_and_rises_slowly_to_where_it_was() -> None:
    batcher = Batcher([2, 4, 8])
    ceiling = Ceiling(batcher)
    ceiling.lower(8)
    assert batcher.cap == 4
    ceiling.lower(2)
    assert batcher.cap == 2
    caps = []
    for _ in range(4 * CALM_STEPS):
        ceiling.stepped()
        caps.append(batcher.cap)
    assert caps == sorted(caps)
    assert caps[CALM_STEPS - 2 : CALM_STEPS] == [2, 4]
    assert caps[-1] == 8


def test_trouble_with_a_small_step_does_not_raise_the_ceiling() -> None:
    batcher = Batcher([16])
    ceiling = Ceiling(batcher)
    ceiling.lower(8)
    ceiling.lower(16)
    assert batcher.cap == 4


def test_deaths_are_remembered_until_an_answer_or_for_a_while() -> None:
    now = 0.0
    quarantine = Quarantine(lambda: now)
    quarantine.died(b"x", 1)
    quarantine.died(b"x", 2)
    assert (quarantine.deaths(b"x"), quarantine.left(b"x")) == (2, 0)
    assert quarantine.deaths(b"y") == 0
    quarantine.forgive(b"x")
    assert quarantine.deaths(b"x") == 0
    quarantine.died(b"x", 1)
    now = SECONDS + 1
    assert quarantine.deaths(b"x") == 0


def test_quarantine_ends() -> None:
    now = 0.0
    quarantine = Quarantine(lambda: now)
    quarantine.died(b"x", 3)
    assert quarantine.left(b"x") == SECONDS
    assert quarantine.left(b"y") == 0
    quarantine.forgive(b"x")  # of one that was accepted before
    assert quarantine.left(b"x") == SECONDS
    now = SECONDS + 1
    assert quarantine.left(b"x") == 0


@pytest.mark.parametrize(
    ("turn", "allowed"), [(None, 900.0), (0.1, 30.0), (7.0, 70.0)], ids=["starting", "floor", "10×"]
)
def test_silence_is_measured_against_what_the_work_should_take(
    turn: float | None, allowed: float
) -> None:
    now = 0.0
    watchdog = Watchdog(Patience(), lambda: now)
    now = 10.0
    assert watchdog.left(turn) == pytest.approx(allowed - 10)
    watchdog.heard()
    assert watchdog.left(turn) == pytest.approx(allowed)
