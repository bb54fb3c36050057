"""What the handlers share: settings, engine, metrics, the slots and the picture threads."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from starlette.requests import HTTPConnection

from app.api.middleware.keys import Keys
from app.api.middleware.limiter import Slots
from app.errors import Draining, NotReady
from app.ipc.messages import Done
from app.metrics import Metrics
from app.parameters import ModelInfo, Parameters
from app.pictures import Picture
from app.scheduling.forecast import Span
from app.settings import Settings
from app.tracing import Tracing

RETRY_NOT_READY = 5.0
"""Seconds after which to ask a service again that is not ready."""

T = TypeVar("T")


def defaults(model: ModelInfo) -> Parameters:
    """One picture of what the checkpoint makes by default."""
    width, height = model.sizes[0]
    return Parameters(
        n=1,
        guidance_scale=model.guidance_scale,
        num_inference_steps=model.num_inference_steps,
        scheduler=model.scheduler,
        seed=0,
        width=width,
        height=height,
        fit=model.fit,
    )


class State(Protocol):
    """How the worker is: ``phase`` in one word, ``reason`` in a sentence, ``fraction`` 0–1."""

    @property
    def phase(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def fraction(self) -> float | None: ...


class Engine(Protocol):
    """What HTTP needs of the engine; :class:`app.engine.engine.Supervisor` is the real one."""

    @property
    def state(self) -> State: ...
    @property
    def model(self) -> ModelInfo | None: ...
    @property
    def max_rows(self) -> int | None: ...

    @property
    def accepting(self) -> bool: ...

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def foresee(self, parameters: Parameters) -> Span:
        """When a request would start and be finished if it were accepted now, in seconds."""
        ...

    def takes(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as quickly as ever seen."""
        ...

    def may_try(self) -> bool:
        """Whether to take a request though it seems to take too long, to see whether it does."""
        ...

    def finishes(self) -> Mapping[str, float]:
        """Seconds until every accepted request will be finished, by its id."""
        ...

    def ready_in(self) -> float | None:
        """Seconds until there should be a worker; ``None`` where there will be none."""
        ...

    async def run(
        self,
        request_id: str,
        read: Callable[[], Awaitable[Picture]],
        parameters: Parameters,
        fingerprint: bytes,
    ) -> Done:
        """Make the variations. Cancelling the task cancels the work."""
        ...


@dataclass(slots=True)
class Service:
    """One running service; lives in ``app.state.service``."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    keys: Keys
    slots: Slots
    tracing: Tracing
    readers: ThreadPoolExecutor
    """Where uploads become pixels. Answers are written elsewhere: none waits for a slow upload."""
    draining: bool = False
    """About to end: nothing new is accepted, and what was accepted is finished."""

    def model(self) -> ModelInfo:
        """The model to make variations with; raises :class:`NotReady` where none are accepted."""
        if self.draining:
            raise Draining(
                "The service is shutting down; another instance may take the request",
                retry_after=RETRY_NOT_READY,
            )
        model = self.engine.model
        if model is None or not self.engine.accepting:
            raise NotReady(
                f"The service is not ready: {self.engine.state.reason}",
                retry_after=self.engine.ready_in(),
            )
        return model

    def predicted_wait(self) -> float:
        """Seconds that a request for one picture would wait for its first step.

        0 where none is accepted, since whoever adds these up over replicas could not add NaN.
        """
        model = self.engine.model
        if model is None or not self.engine.accepting:
            return 0.0
        return self.engine.foresee(defaults(model)).started

    async def read(self, function: Callable[[], T]) -> T:
        """Run the reading of an upload off the event loop, a bounded number at once."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, function)


def service_of(connection: HTTPConnection) -> Service:
    """The service behind a request."""
    service: Service = connection.app.state.service
    return service
