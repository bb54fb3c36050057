"""The mirror of the worker's queue: who is due, who was running, when each ends."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.engine.generation import Generation
from app.engine.mirror import NEWCOMER, Mirror
from app.ipc.messages import DecodeStats, Encoded, Measured, Ready, StepStats
from app.parameters import Fit, Parameters, Scheduler
from app.scheduling.forecast import Span
from tests.support.generations import NoOwner
from tests.support.requests import MODEL, PREPROCESSING, condition_for

pytestmark = pytest.mark.anyio

PARAMETERS = Parameters(1, 3.0, 4, Scheduler.DDIM, 0, 64, 64, Fit.SQUASH)
SIZE = PARAMETERS.size
READY = Ready(MODEL, PREPROCESSING, (2, 4), Measured({2: 0.1, 4: 0.2}, 4), 0.5, 0.5, 2)


def generation(name: str, due: float = 0.0) -> Generation:
    return Generation(name, PARAMETERS, condition_for(PARAMETERS), NoOwner(), due)


@pytest.fixture
async def mirror() -> Mirror:
    """Four generations, and a worker that is ready: two of them fit in a step."""
    mirror = Mirror()
    for name in "abcd":
        mirror.add(generation(name))
    mirror.worker_ready(READY)
    return mirror


def predict(mirror: Mirror, newcomer: Parameters | None = None) -> dict[str, Span]:
    """The span of every generation, and as ``NEWCOMER`` one after them all."""
    forecast = mirror.forecast()
    return forecast.spans | ({NEWCOMER: forecast.further(newcomer)} if newcomer else {})


def names(generations: Iterable[Generation]) -> str:
    return "".join(one.request_id for one in generations)


def known(mirror: Mirror, name: str) -> Generation:
    found = mirror.get(name)
    assert found is not None
    return found


def submit_due(mirror: Mirror) -> str:
    due = mirror.due()
    for one in due:
        mirror.submit(one)
    return names(due)


def encode(mirror: Mirror, wanted: str) -> None:
    for name in wanted:
        encode_one(mirror, name)


def encode_one(mirror: Mirror, name: str) -> None:
    mirror.encoded(Encoded(name, 0.5, 0.0, ()))


def step(mirror: Mirror, members: str, seconds: float = 0.2) -> None:
    rows = 2 * len(members)
    taken = tuple((name, 0) for name in members)
    mirror.stepped(StepStats(seconds, rows, rows, SIZE, taken, 1, 0, cap=4))


def cancel(mirror: Mirror, name: str) -> bool:
    one = known(mirror, name)
    one.cancel()
    return mirror.cancel(one)


async def test_every_generation_is_due_once_and_in_order(mirror: Mirror) -> None:
    assert submit_due(mirror) == "abcd"
    assert submit_due(mirror) == ""


async def test_running_are_those_in_the_step_and_the_next_to_be_encoded(mirror: Mirror) -> None:
    mirror.add(generation("e"))
    submit_due(mirror)
    encode(mirror, "a")
    assert names(mirror.running()) == "abc"


async def test_nobody_is_being_encoded_while_the_step_is_full(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "ab")
    assert names(mirror.running()) == "ab"


async def test_the_worker_may_be_a_step_further_and_encode_for_the_room_that_this_made(
    mirror: Mirror,
) -> None:
    submit_due(mirror)
    encode(mirror, "ab")
    for _ in range(PARAMETERS.calls - 1):
        step(mirror, "ab")
    assert names(mirror.running()) == "abcd"


async def test_one_that_fits_may_be_encoded_before_one_whose_solver_table_is_not_there(
    mirror: Mirror,
) -> None:
    submit_due(mirror)
    encode(mirror, "a")
    plain = replace(PARAMETERS, guidance_scale=1.0)
    for one in [known(mirror, name) for name in "bcd"]:
        mirror.remove(one)
    for name, parameters in ("one row", plain), ("two rows", PARAMETERS), ("fits", plain):
        one = Generation(name, parameters, condition_for(parameters), NoOwner())
        mirror.add(one)
    submit_due(mirror)
    encode_one(mirror, "one row")
    assert [one.request_id for one in mirror.running()] == ["a", "one row", "two rows", "fits"]


async def test_where_pictures_are_encoded_beside_the_steps_no_room_is_waited_for(
    mirror: Mirror,
) -> None:
    mirror.worker_ready(replace(READY, beside=True))
    submit_due(mirror)
    encode(mirror, "ab")
    assert names(mirror.running()) == "abcd"


async def test_those_that_are_due_first_are_running_and_encoded_before_others(
    mirror: Mirror,
) -> None:
    mirror.add(generation("late", due=2.0))
    mirror.add(generation("soon", due=1.0))
    submit_due(mirror)
    encode(mirror, "abcd")
    for name in "abcd":
        mirror.remove(known(mirror, name))
    mirror.add(generation("late too", due=2.0))
    mirror.add(generation("now"))
    submit_due(mirror)
    assert [one.request_id for one in mirror.running()] == ["now", "soon"]
    encode_one(mirror, "late")
    encode_one(mirror, "soon")
    encode_one(mirror, "now")
    assert [one.request_id for one in mirror.running()] == ["soon", "now"]
    assert [one.request_id for one, _ in mirror.positions()] == ["now", "soon", "late", "late too"]


async def test_a_newcomer_waits_for_those_that_are_due_before_it(mirror: Mirror) -> None:
    submit_due(mirror)
    forecast = mirror.forecast()
    first = forecast.further(PARAMETERS, due=-1.0)
    last = forecast.further(PARAMETERS, due=1.0)
    assert first.started <= min(last.started, *(span.started for span in forecast.spans.values()))
    assert last.finished > max(span.finished for span in forecast.spans.values())


async def test_running_are_those_that_are_only_decoded_too(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "abcd")
    for _ in range(PARAMETERS.calls):
        step(mirror, "ab")
    assert names(mirror.running()) == "abcd"


async def test_those_that_wait_past_the_cap_are_not_running(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "abcd")
    assert names(mirror.running()) == "ab"


async def test_when_a_worker_is_lost_everything_is_due_again(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "a")
    assert names(mirror.worker_lost()) == "abc"
    mirror.worker_ready(READY)
    assert submit_due(mirror) == "abcd"


async def test_a_cancelled_generation_stays_with_the_worker_until_it_is_dropped(
    mirror: Mirror,
) -> None:
    submit_due(mirror)
    encode(mirror, "a")
    for name in "abcd":
        assert cancel(mirror, name)
    assert len(mirror) == 0
    for name in "abcd":
        assert mirror.busy
        mirror.dropped(name)
    assert not mirror.busy


async def test_a_generation_that_the_worker_never_got_is_gone_at_once(mirror: Mirror) -> None:
    assert not cancel(mirror, "d")
    assert submit_due(mirror) == "abc"


async def test_while_something_is_dropped_nothing_further_is_being_encoded(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "ab")
    cancel(mirror, "a")
    assert names(mirror.running()) == "b"
    mirror.dropped("a")
    assert names(mirror.running()) == "bcd"


async def test_the_rows_of_a_cancelled_generation_move_nobody_up_until_it_is_dropped(
    mirror: Mirror,
) -> None:
    submit_due(mirror)
    encode(mirror, "abcd")
    cancel(mirror, "a")
    assert names(mirror.running()) == "b"
    mirror.dropped("a")
    assert names(mirror.running()) == "bc"


async def test_an_answer_ends_what_the_worker_has_of_a_generation(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "ab")
    mirror.remove(known(mirror, "a"))
    assert names(mirror.running()) == "bcd"
    assert names(mirror) == "bcd"


async def test_a_newcomer_is_predicted_behind_everybody(mirror: Mirror) -> None:
    spans = predict(mirror, PARAMETERS)
    assert max(spans, key=lambda name: spans[name].finished) == NEWCOMER
    assert set(spans) == {*"abcd", NEWCOMER}


async def test_a_prediction_changes_with_whatever_happens(mirror: Mirror) -> None:
    submit_due(mirror)
    before = predict(mirror)
    assert set(before) == set("abcd")
    assert predict(mirror) == before
    encode(mirror, "a")
    encoded = predict(mirror)
    assert encoded["d"].finished < before["d"].finished
    step(mirror, "a")
    stepped = predict(mirror)
    assert stepped["d"].finished < encoded["d"].finished
    cancel(mirror, "b")
    cancelled = predict(mirror)
    assert set(cancelled) == set("acd")
    assert cancelled["d"].finished < stepped["d"].finished
    mirror.decoded(DecodeStats(1, SIZE, 60.0))
    assert predict(mirror)["d"].finished > cancelled["d"].finished


async def test_what_a_request_takes_alone_knows_nothing_of_the_queue(mirror: Mirror) -> None:
    alone = mirror.fastest(PARAMETERS)
    assert alone == pytest.approx(0.5 + PARAMETERS.calls * 0.1 + 0.5)
    submit_due(mirror)
    encode(mirror, "abcd")
    assert mirror.fastest(PARAMETERS) == alone


async def test_a_disturbed_start_is_not_the_fastest_that_can_be(mirror: Mirror) -> None:
    """Else a service started on a busy machine could refuse all that comes, for ever."""
    disturbed = Measured({2: 1.0, 4: 2.0}, 4, disturbance=10.0)
    other = Mirror()
    other.worker_ready(replace(READY, measured=disturbed, encode_seconds=5.0, decode_seconds=5.0))
    assert other.fastest(PARAMETERS) == pytest.approx(mirror.fastest(PARAMETERS))
    assert other.costs.step(SIZE, 2) == 1.0


async def test_the_fastest_is_what_was_ever_seen(mirror: Mirror) -> None:
    before = mirror.fastest(PARAMETERS)
    for _ in range(20):
        step(mirror, "a", seconds=4.0)
        step(mirror, "ab", seconds=4.0)
    assert mirror.fastest(PARAMETERS) == before
    assert predict(mirror, PARAMETERS)[NEWCOMER].finished > 3 * before
    for _ in range(40):
        step(mirror, "a", seconds=0.01)
    assert mirror.fastest(PARAMETERS) < before


async def test_a_turn_has_a_decode_as_long_as_anything_is_to_be_decoded(mirror: Mirror) -> None:
    submit_due(mirror)
    assert mirror.turn_seconds() == pytest.approx(2 * 0.5)
    encode(mirror, "ab")
    for calls in range(PARAMETERS.calls, 0, -1):
        assert mirror.turn_seconds() == pytest.approx(2 * 0.5 + 0.2 + 2 * 0.5), calls
        step(mirror, "ab")
    assert mirror.turn_seconds() == pytest.approx(2 * 0.5 + 2 * 0.5)


async def test_the_turn_of_a_cancelled_generation_is_awaited_too(mirror: Mirror) -> None:
    submit_due(mirror)
    encode(mirror, "a")
    turn = mirror.turn_seconds()
    for name in "abcd":
        cancel(mirror, name)
    assert mirror.turn_seconds() == turn
    assert predict(mirror, PARAMETERS)[NEWCOMER].started == mirror.costs.encode


async def test_positions_are_of_those_that_have_not_begun(mirror: Mirror) -> None:
    known(mirror, "a").step([0])
    assert [(one.request_id, place) for one, place in mirror.positions()] == [
        ("b", 1),
        ("c", 2),
        ("d", 3),
    ]


async def test_an_id_is_taken_only_once(mirror: Mirror) -> None:
    with pytest.raises(ValueError, match="already in the queue"):
        mirror.add(generation("a"))


async def test_last_attempts_are_forecast_one_after_the_other_and_before_all_others(
    mirror: Mirror,
) -> None:
    for name in "ac":
        known(mirror, name).attempts = 2
    one = Mirror()
    one.worker_ready(READY)
    single = predict(one, PARAMETERS)[NEWCOMER].finished
    spans = predict(mirror)
    assert spans["a"].finished == pytest.approx(single)
    assert spans["c"].finished == pytest.approx(2 * single)
    assert spans["b"].started >= spans["c"].finished
    assert predict(mirror, PARAMETERS)[NEWCOMER].finished > spans["c"].finished
    submit_due(mirror)
    encode(mirror, "a")
    step(mirror, "a")
    assert predict(mirror)["a"].finished < single
    assert predict(mirror)["c"].finished < 2 * single
