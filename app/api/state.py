"""The state that the handlers share, and what they need of the engine and the decoders."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection

from app.api.middleware.keys import Keys
from app.api.middleware.limiter import Limiter
from app.engine.generation import Generation
from app.errors import Draining, NotReady
from app.metrics import Metrics
from app.parameters import Condition, EncoderInput, Fit, ModelInfo, Parameters
from app.pictures.fit import Preprocessing
from app.scheduling.forecast import Span
from app.settings import Settings
from app.tracing import Tracing

RETRY_NOT_READY = 5.0
"""Seconds after which to ask a service again that is not ready."""


class WorkerState(Protocol):
    """The worker's state: ``phase`` in one word, ``reason`` in a sentence, ``fraction`` 0–1."""

    @property
    def phase(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def fraction(self) -> float | None: ...


class Engine(Protocol):
    """The part of the engine that HTTP needs; :class:`app.engine.engine.Engine` is the real one."""

    @property
    def state(self) -> WorkerState: ...
    @property
    def model(self) -> ModelInfo | None: ...
    @property
    def preprocessing(self) -> Preprocessing | None: ...
    @property
    def max_rows(self) -> int | None: ...
    @property
    def accepting(self) -> bool: ...

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    def predict(self, parameters: Parameters) -> Span:
        """Seconds until a request would start and be finished if it were accepted now."""

    def fastest(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as quickly as ever seen."""

    def may_try(self) -> bool:
        """True where a request may be taken to see whether it still takes as long as predicted."""

    def finishes(self) -> Mapping[str, float]:
        """Seconds until every accepted request will be finished, by its id."""

    def ready_in(self) -> float | None:
        """Seconds until there should be a worker; ``None`` where there will be none."""

    def submit(self, request_id: str, parameters: Parameters, condition: Condition) -> Generation:
        """Accept a request. Raises :class:`NotReady`."""


class Decoders(Protocol):
    """Processes that decode uploads; :class:`app.pictures.sandbox.Decoders` is the real one."""

    @property
    def waiting(self) -> int: ...

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def decode(
        self, read: Callable[[], Awaitable[bytes]], *, fit: Fit, preprocessing: Preprocessing
    ) -> EncoderInput:
        """The upload as the encoder takes it. Raises :class:`app.errors.BadInput`.

        Cancelling the awaiting task ends the decoding.
        """


@dataclass(slots=True)
class Service:
    """One running service; lives in ``app.state.service``."""

    settings: Settings
    engine: Engine
    decoders: Decoders
    metrics: Metrics
    keys: Keys
    limiter: Limiter
    tracing: Tracing
    draining: bool = False
    """About to end: nothing new is accepted, and what was accepted is finished."""

    def model(self) -> tuple[ModelInfo, Preprocessing]:
        """The model that makes the variations, and what its encoder takes.

        Raises :class:`Draining` or :class:`NotReady` where no request is accepted.
        """
        if self.draining:
            raise Draining(
                "The service is shutting down; another instance may take the request",
                retry_after=RETRY_NOT_READY,
            )
        model, preprocessing = self.engine.model, self.engine.preprocessing
        if model is None or preprocessing is None or not self.engine.accepting:
            raise NotReady(
                f"The service is not ready: {self.engine.state.reason}",
                retry_after=self.engine.ready_in(),
            )
        return model, preprocessing

    def predicted_wait(self) -> float:
        """Seconds that a request for one picture would wait for its first step.

        0 where none is accepted, since whoever adds these up over replicas could not add NaN.
        """
        model = self.engine.model
        if model is None or not self.engine.accepting:
            return 0.0
        return self.engine.predict(model.defaults()).started


def service_of(connection: HTTPConnection) -> Service:
    """The service behind a request."""
    service: Service = connection.app.state.service
    return service
