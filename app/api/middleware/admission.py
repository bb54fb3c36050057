"""Admission to a route with a body: refusals that need no body, and bounds on the rest."""

import asyncio
import math
import uuid
from dataclasses import dataclass, field

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from app.api.middleware.body import bounded, check_head
from app.api.middleware.idempotency import key_of
from app.api.middleware.keys import ANYBODY
from app.api.state import Service, service_of
from app.api.timeline import Timeline
from app.engine.engine import Engine
from app.engine.generation import Generation
from app.errors import (
    DeadlineExceeded,
    DeadlineOutOfReach,
    InvalidParameter,
    OwnDeadlineExceeded,
    OwnDeadlineOutOfReach,
    TooSlow,
    VariationsError,
)
from app.parameters import ModelInfo, Parameters
from app.pictures.fit import Preprocessing

TIMEOUT_HEADER = "x-request-timeout"

_PIECE_BYTES = 2**16
_LESS = "ask for fewer pictures or fewer steps"


@dataclass(slots=True)
class Admission:
    """An admitted request; lives in ``request.state.admission``.

    ``seconds`` is how long it may take from now on, ``boundary`` that between the parts of its
    form. ``model`` and its ``preprocessing`` were there to make its pictures, so it is not refused
    because the service drains now.
    """

    request_id: str
    model: ModelInfo
    preprocessing: Preprocessing
    seconds: float
    boundary: bytes
    timeline: Timeline = field(default_factory=Timeline)
    caller: str = ANYBODY
    """The name of its API key."""
    in_haste: bool = False
    """Its caller gives it less time than the service would."""
    idempotency_key: str | None = None
    """By which its caller would know it again."""
    is_repeat: bool = False
    """There is a stored request with that key."""
    accepted: bool = False
    """Its form is whole, and it has a place in the queue."""
    is_trial: bool = False
    """It is made though it is predicted to be late, to see whether it is."""
    generation: Generation | None = None
    """What is made for it, and cancelled when the request is over."""

    @property
    def left(self) -> float:
        """Seconds that it may still take."""
        return self.seconds - self.timeline.total()

    def predict(self, engine: Engine, parameters: Parameters, wait: float = 0.0) -> float:
        """Seconds until the pictures would be done, if they are submitted in ``wait`` seconds.

        Raises :class:`DeadlineOutOfReach` where that is too late; without a ``Retry-After`` where
        they would take too long even with nothing else to do.
        """
        span, fastest = engine.predict(parameters), engine.fastest(parameters)
        finished = span.finished + max(0.0, wait - span.started)
        left = self.left
        if finished > left and fastest <= left:
            self.is_trial = self.is_trial or engine.may_try()
        if finished <= left or (fastest <= left and self.is_trial):
            return finished
        never = fastest > self.seconds
        kind = OwnDeadlineOutOfReach if self.in_haste and fastest > left else DeadlineOutOfReach
        raise kind(
            f"The pictures would be done in about {finished:.1f} s, and {left:.1f} s are left of "
            f"the {self.seconds:g} s that this request may take"
            + (f"; with nothing else to do they take {fastest:.1f} s: {_LESS}" if never else ""),
            retry_after=None if never else finished - left,
        )

    def out_of_time(self) -> VariationsError:
        """The error of a request whose seconds are over: whose fault it is depends on the stage."""
        if self.accepted:
            kind = OwnDeadlineExceeded if self.in_haste else DeadlineExceeded
            then = "it goes on, for its Idempotency-Key" if self.idempotency_key else "was stopped"
            return kind(f"The request did not finish within {self.seconds:g} s and {then}")
        words = f"The body did not arrive within the {self.seconds:g} s that this request may take"
        if self.in_haste:
            return OwnDeadlineOutOfReach(words, retry_after=None)
        return TooSlow(words, field="body")


class AdmittedRoute(APIRoute):
    """A route whose requests are admitted before FastAPI reads their forms.

    It is an upload until its form is whole; then it has a place in the queue, or is refused after
    all, until its caller has taken the whole answer. When that is over, or the caller has gone, its
    generation is cancelled if it has not ended.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # which says so
            return
        connection = HTTPConnection(scope)
        service = service_of(connection)
        admission = connection.state.admission = _admit(service, connection)
        service.tracing.admitted(admission.request_id)  # the span ends with the answer
        name, repeats = admission.request_id, await service.stored.knows(admission)
        admission.is_repeat = repeats
        with service.limiter.admit(name, admission.caller, is_repeat=repeats):

            def whole() -> None:
                (service.limiter.arrived if repeats else service.limiter.accept)(name)
                admission.accepted = True

            try:
                async with asyncio.timeout(admission.seconds) as deadline:

                    async def answer(message: Message) -> None:
                        if message["type"] == "http.response.start":
                            deadline.reschedule(None)  # from here on other limits hold
                        await _send_in_pieces(message, send)

                    body = bounded(receive, service.settings, admission.boundary, whole)
                    await super().handle(scope, body, answer)
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise admission.out_of_time() from None
            finally:
                if admission.generation:
                    admission.generation.cancel()
                service.tracing.stages(admission.timeline.stages)


def _admit(service: Service, connection: HTTPConnection) -> Admission:
    """Raises whatever can be said against the request without its body."""
    caller = service.keys.caller(connection.headers)
    model, preprocessing = service.model()
    boundary = check_head(connection, service.settings)
    seconds = _seconds(connection.headers, service.settings.request_timeout)
    in_haste = seconds < service.settings.request_timeout
    if in_haste and seconds < (fastest := service.engine.fastest(model.cheapest())):
        raise OwnDeadlineOutOfReach(
            f"This request may take {seconds:g} s by its {TIMEOUT_HEADER}, and the least that can "
            f"be asked for takes {fastest:.2g} s with nothing else to do",
            retry_after=None,
        )
    return Admission(
        # One search finds a request in every log; the tail tells apart callers that repeat ids.
        # Nor can they guess those of others.
        request_id=f"{connection.state.request_id}.{uuid.uuid4().hex}",
        model=model,
        preprocessing=preprocessing,
        seconds=seconds,
        boundary=boundary,
        caller=caller,
        in_haste=in_haste,
        idempotency_key=key_of(connection.headers),
    )


def _seconds(headers: Headers, most: float) -> float:
    """The time that the caller will wait, at most as long as the service would work."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return most
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidParameter(
            f"{TIMEOUT_HEADER} is a number of seconds above 0, such as 30, not {given[:40]!r}",
            field=TIMEOUT_HEADER,
        )
    return min(seconds, most)


async def _send_in_pieces(message: Message, send: Send) -> None:
    """Send a body in pieces, each of which waits until the caller has taken those before it.

    A server takes a whole body at once, and holds it for as long as it is not read.
    """
    body = memoryview(message.get("body", b""))
    for start in range(0, len(body), _PIECE_BYTES):
        piece = bytes(body[start : start + _PIECE_BYTES])
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({**message, "body": b""} if body else message)
