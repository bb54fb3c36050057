"""The state that the handlers share."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from app.api.middleware.keys import Keys
from app.api.middleware.limiter import Limiter
from app.api.store import PictureStore
from app.engine.engine import Engine
from app.errors import Draining, NotReady
from app.metrics import Metrics
from app.parameters import ModelInfo
from app.pictures.fit import Preprocessing
from app.pictures.sandbox import Decoders
from app.pictures.signing import Signer
from app.settings import Settings
from app.tracing import Tracing

if TYPE_CHECKING:
    from app.api.stored.requests import StoredRequests  # which needs the service

RETRY_UNKNOWN = 5.0
"""Seconds after which to ask again where nobody can tell."""


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
    pictures: PictureStore
    signer: Signer | None
    stored: "StoredRequests"
    since: int = field(default_factory=lambda: int(time.time()))
    """Unix time at which it was made."""
    draining: bool = False
    """About to end: nothing new is accepted, and what was accepted is finished."""

    def __post_init__(self) -> None:
        self.metrics.http.watch(lambda: self.limiter.uploads)

    def model(self) -> tuple[ModelInfo, Preprocessing]:
        """The model that makes the variations, and what its encoder takes.

        Raises :class:`Draining` or :class:`NotReady` where no request is accepted.
        """
        if self.draining:
            raise Draining(
                "The service is shutting down; another instance may take the request",
                retry_after=RETRY_UNKNOWN,
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
        return max(self.engine.predict(model.defaults()).started, self.decoders.wait())


def service_of(connection: HTTPConnection) -> Service:
    """The service behind a request."""
    service: Service = connection.app.state.service
    return service
