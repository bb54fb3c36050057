"""What the handlers share: settings, engine, metrics, the slots and the picture threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from starlette.requests import HTTPConnection

from app.api.slots import Slots
from app.engine.messages import Done, Picture
from app.errors import NotReady
from app.metrics import Metrics
from app.parameters import ModelInfo, Parameters
from app.settings import Settings

RETRY_NOT_READY = 5.0
"""Seconds after which to ask a service again that is not ready."""

T = TypeVar("T")


class State(Protocol):
    """How the worker is: ``phase`` in one word, ``reason`` in a sentence, ``fraction`` 0–1."""

    @property
    def phase(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def fraction(self) -> float | None: ...


class Engine(Protocol):
    """What HTTP needs of the engine; :class:`app.engine.supervisor.Supervisor` is the real one."""

    @property
    def state(self) -> State: ...
    @property
    def model(self) -> ModelInfo | None: ...
    @property
    def max_rows(self) -> int | None: ...

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def run(self, request_id: str, picture: Picture, parameters: Parameters) -> Done:
        """Make the variations. Cancelling the task cancels the work."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """One running service; lives in ``app.state.service``."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    slots: Slots
    threads: ThreadPoolExecutor

    def ready_model(self) -> ModelInfo:
        """The model being served; raises :class:`NotReady` where there is none to ask."""
        state, model = self.engine.state, self.engine.model
        if state.phase != "ready" or model is None:
            raise NotReady(f"The service is not ready: {state.reason}", retry_after=RETRY_NOT_READY)
        return model

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run picture work off the event loop, a bounded number at once."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function)


def service_of(connection: HTTPConnection) -> Service:
    """The service behind a request."""
    service: Service = connection.app.state.service
    return service
