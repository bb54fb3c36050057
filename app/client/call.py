"""One request from its first try to its answer, without reading or writing anything itself.

Both clients drive it in the same way: they send what :meth:`Call.attempt` gives and hand over what
comes back, until there is an answer.
"""

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx2

from app.client.answers import OnProgress, Variation, Variations, Waiting, progress_of
from app.client.errors import ClientError, ServiceError, Unreachable, error_of

_EVENTS = "text/event-stream"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_BROKEN_TRIES = 4
_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


class Call:
    """``answer`` is there when it is over; until then it is tried again after ``pause`` seconds.

    ``seconds`` is how long all tries may take. ``place`` is where the service keeps the request,
    if it does: what is given up has to be deleted there.
    """

    def __init__(
        self, request: httpx2.Request, seconds: float, on_progress: OnProgress | None
    ) -> None:
        self.answer: Variations | None = None
        self.pause = 0.0
        self.place: httpx2.URL | None = None
        self._request = request
        self._until = time.monotonic() + seconds
        self._on_progress = on_progress
        self._failures = 0
        self._broken = 0
        self._pictures: dict[int, Variation] = {}

    @contextmanager
    def attempt(self) -> Iterator[httpx2.Request]:
        """One try: gives the request; what goes wrong sets ``pause``, or is raised for good."""
        left = max(0.001, self._until - time.monotonic())
        if math.isfinite(left):
            self._request.headers["x-request-timeout"] = f"{left:.3f}"
        try:
            yield self._request
            if self.answer is None:
                raise httpx2.RemoteProtocolError("the stream of events ended before the pictures")
        except httpx2.TransportError as error:
            self._fail(self._unreachable(str(error) or type(error).__name__), error)
        except ServiceError as error:
            self._fail(error, error)

    def is_stream(self, response: httpx2.Response) -> bool:
        """Whether the response is a stream of events, and no error to be read whole."""
        if place := response.headers.get("content-location"):
            url = self._request.url  # the name alone counts: a proxy may show other paths
            self.place = url.copy_with(path=f"{url.path}/{place.rpartition('/')[2]}")
        if response.is_success and not response.headers.get("content-type", "").startswith(_EVENTS):
            raise self._unreachable("what answers is not this service")
        return response.is_success

    def refused(self, response: httpx2.Response) -> None:
        """Raise the error that was read."""
        problem = _problem(response)
        seconds = _seconds(response.headers)
        if seconds is not None:
            problem["retry_after"] = seconds
        should = response.headers.get("x-should-retry")
        should_retry = response.status_code in _RETRIED if should is None else should == "true"
        raise error_of(response.status_code, problem, should_retry=should_retry)

    def hear(self, event: httpx2.ServerSentEvent) -> None:
        """Take an event of the stream; raises the error that it tells."""
        told = json.loads(event.data)
        if event.event == "error":
            raise error_of(told["status"], told)
        if event.event == "done":
            pictures = tuple(self._pictures[index] for index in sorted(self._pictures))
            names = ("id", "model", "parameters", "timings")
            self.answer = Variations(**{name: told[name] for name in names}, pictures=pictures)
            return
        progress = progress_of(event.event, told)
        if isinstance(progress, Variation):
            self._pictures[progress.index] = progress
        if progress is not None and self._on_progress:
            self._on_progress(progress)

    def _unreachable(self, words: str) -> Unreachable:
        return Unreachable(f"{self._request.url.netloc.decode()}: {words}")

    def _fail(self, error: ClientError, cause: Exception) -> None:
        """Set a pause before the next try, or raise the error where there is none."""
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 # so that many do not come at once
        self._failures += 1
        if isinstance(error, ServiceError):
            again, self._broken = error.should_retry, 0
            pause = pause if error.retry_after is None else error.retry_after
        else:
            self._broken += 1
            again = self._broken < _BROKEN_TRIES
        if not again or time.monotonic() + pause >= self._until:
            raise error from (None if cause is error else cause)
        self.pause = pause
        if self._on_progress:
            self._on_progress(Waiting(pause, error))


def _problem(response: httpx2.Response) -> dict[str, Any]:
    """What the service, or a proxy before it, says of an error."""
    if "json" in response.headers.get("content-type", ""):
        told = response.json()
        if isinstance(told, dict):
            return told
    return {"detail": f"The answer was {response.status_code}, without a word"}


def _seconds(headers: httpx2.Headers) -> float | None:
    """The pause that is asked for, to the millisecond where it is told so."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return float(headers[name]) / unit
        except (KeyError, ValueError):  # a date, as proxies may give one
            continue
    return None
