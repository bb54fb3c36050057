"""Deadlines: out of reach, or accepted and not finished in time."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.middleware.admission import Admission
from app.errors import DeadlineExceeded, OwnDeadlineExceeded, OwnDeadlineOutOfReach, TooSlow
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.problems import assert_problem
from tests.support.requests import MODEL, PREPROCESSING
from tests.support.scrape import eventually, value

LIMIT = 30.0
SOON, LATE = Span(0.0, 0.1), Span(99.9, 100.0)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(request_timeout=LIMIT)


def post_within(client: httpx.Client, png: bytes, seconds: object, **fields: int) -> httpx.Response:
    headers = {"x-request-timeout": str(seconds)}
    files = {"image": ("a.png", png)}
    return client.post("/variations", files=files, data=fields, headers=headers)


@contextmanager
def upload(url: str, seconds: str) -> Iterator[socket.socket]:
    """A connection on which the head and a piece of the body are sent, and no more."""
    address = urlsplit(url)
    lines = [
        "POST /variations HTTP/1.1",
        "Host: localhost",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Length: 1000",
        f"X-Request-Timeout: {seconds}",
    ]
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", "--x\r\n"]).encode())
        yield connection


def answer_on(connection: socket.socket) -> bytes:
    """A whole problem."""
    answer = b""
    while b"}" not in answer and (more := connection.recv(65536)):
        answer += more
    return answer


@contextmanager
def nobodys_fault(client: httpx.Client, requests: int = 1) -> Iterator[None]:
    """So many requests fail for their callers' own deadlines, and none by the service's fault."""

    def own() -> float:
        return value(client, "variations_refusals_total", {"reason": "own_deadline"})

    def failed() -> float:
        """The requests that the alert of the error budget counts."""
        statuses = [{"route": "/variations", "status": status} for status in ("500", "503", "504")]
        excused = [{"reason": reason} for reason in ("deadline", "own_deadline", "draining")]
        return sum(value(client, "variations_requests_total", one) for one in statuses) - sum(
            value(client, "variations_refusals_total", one) for one in excused
        )

    before = own(), failed()
    yield
    eventually(lambda: own() == before[0] + requests)
    eventually(lambda: failed() == before[1])


@pytest.mark.parametrize("seconds", ["0.0001", "1e-9", "0.05"])
def test_a_deadline_that_nothing_could_meet_is_refused_unread(
    url: str, client: httpx.Client, engine: FakeEngine, seconds: str
) -> None:
    engine.predicted = SOON
    with nobodys_fault(client), upload(url, seconds) as connection:
        answer = answer_on(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"x-should-retry: false" in answer
    assert b"0.1 s with nothing else to do" in answer


def test_a_deadline_that_its_own_pictures_cannot_meet_is_nobodys_fault(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.slow_steps = 10
    engine.predicted = Span(2.7, 3.0)
    with nobodys_fault(client):
        response = post_within(client, png, 0.5, num_inference_steps=20)
        assert_problem(response, 503)
    assert response.headers["x-should-retry"] == "false"


def test_a_deadline_that_passes_during_the_upload_is_a_503_and_nobodys_fault(
    url: str, client: httpx.Client, engine: FakeEngine
) -> None:
    engine.predicted = SOON
    with nobodys_fault(client), upload(url, "0.5") as connection:
        answer = answer_on(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"did not arrive within the 0.5 s" in answer
    assert not engine.parameters


def test_a_deadline_that_passes_in_decoding_is_a_504_and_nobodys_fault(
    client: httpx.Client, png: bytes, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = SOON
    decoders.gate.held = True
    with nobodys_fault(client):
        assert_problem(post_within(client, png, 1.5), 504)
    assert decoders.gone.wait(60)
    assert not engine.parameters


def test_a_deadline_that_passes_in_the_queue_is_a_504_and_nobodys_fault(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.gate.held = True
    engine.predicted = SOON
    with nobodys_fault(client):
        body = assert_problem(post_within(client, png, 1.5), 504)
    assert "1.5 s" in body["detail"]
    assert engine.gone.wait(60)


@pytest.mark.parametrize(
    ("in_haste", "accepted", "kind"),
    [
        (False, True, DeadlineExceeded),
        (False, False, TooSlow),
        (True, True, OwnDeadlineExceeded),
        (True, False, OwnDeadlineOutOfReach),
    ],
)
def test_whose_fault_it_is_depends_on_whose_time_is_over_and_when(
    in_haste: bool, accepted: bool, kind: type[Exception]
) -> None:
    admission = Admission("a.b", MODEL, PREPROCESSING, 60.0, b"x")
    admission.in_haste, admission.accepted = in_haste, accepted
    assert type(admission.out_of_time()) is kind


def test_the_wait_for_a_decoder_is_predicted_too(
    client: httpx.Client, png: bytes, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = Span(0.5, 1.5)
    decoders.busy_for = 6.5
    refused = post_within(client, png, 5)
    body = assert_problem(refused, 503)
    assert "about 7.5 s" in body["detail"]
    assert 2.5 <= body["retry_after"] <= 7.5
    assert not decoders.gate.reached.acquire(blocking=False), "its picture was decoded"
    assert post_within(client, png, 10).status_code == 200


def test_a_decoder_that_is_quicker_than_the_queue_costs_nothing(
    client: httpx.Client, png: bytes, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = Span(7.0, 8.0)
    decoders.busy_for = 6.5
    assert "about 8.0 s" in assert_problem(post_within(client, png, 5), 503)["detail"]


def test_a_request_within_its_deadline_is_answered(post: Post, engine: FakeEngine) -> None:
    engine.predicted = SOON
    assert post().status_code == 200


def test_a_request_that_cannot_be_done_in_time_is_refused_at_once(
    post: Post, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = LATE
    response = post()
    body = assert_problem(response, 503)
    assert "about 100.0 s" in body["detail"]
    assert LATE.finished - LIMIT <= body["retry_after"] <= LATE.finished
    assert int(response.headers["retry-after-ms"]) == pytest.approx(
        1000 * body["retry_after"], abs=2
    )
    assert not decoders.gate.reached.acquire(blocking=False), "its picture was decoded"
    assert not engine.parameters


def test_a_request_that_takes_too_long_by_itself_is_not_to_be_tried_again(
    post: Post, engine: FakeEngine
) -> None:
    engine.predicted = Span(1.0, 100.0)
    response = post()
    body = assert_problem(response, 503)
    assert "with nothing else to do they take 99.0 s: ask for fewer" in body["detail"]
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert "retry_after" not in body


def test_when_idle_a_request_that_was_slow_of_late_is_tried_once(
    post: Post, engine: FakeEngine
) -> None:
    """Or nothing would ever be learned again."""
    engine.predicted = LATE
    engine.trials = 1
    assert [post().status_code, post().status_code] == [200, 503]


def test_requests_that_came_in_while_a_picture_was_decoded_are_reckoned_with(
    post: Post, engine: FakeEngine, decoders: FakeDecoders
) -> None:
    engine.predicted = SOON
    decoders.gate.held = True
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(post)
        assert decoders.gate.reached.acquire(timeout=60)
        engine.predicted = LATE
        decoders.gate.open()
        assert "about 100.0 s" in assert_problem(answer.result(), 503)["detail"]
    assert not engine.parameters


def test_a_caller_may_ask_for_an_earlier_deadline(
    client: httpx.Client, png: bytes, engine: FakeEngine
) -> None:
    engine.predicted = Span(4.9, 5.0)
    hurried = post_within(client, png, 4)
    assert "4 s that this request may take" in assert_problem(hurried, 503)["detail"]
    assert post_within(client, png, 500).status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan"])
def test_a_deadline_that_is_no_time_is_a_422(client: httpx.Client, png: bytes, given: str) -> None:
    response = post_within(client, png, given)
    assert assert_problem(response, 422)["errors"][0]["field"] == "x-request-timeout"
