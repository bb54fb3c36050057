"""An engine without a model and decoders without processes, for tests of what lies above them."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

import numpy as np

from app.engine.engine import Engine
from app.engine.generation import Generation
from app.engine.lifecycle import WorkerState
from app.errors import Refused, VariationsError
from app.ipc.messages import Stage
from app.parameters import (
    Condition,
    Fit,
    ModelInfo,
    NearDuplicate,
    Parameters,
    Size,
)
from app.pictures import Picture
from app.pictures.decode import decode
from app.pictures.fit import Fitted, Preprocessing, at_size
from app.pictures.sandbox import Decoders
from app.scheduling.forecast import Span
from app.settings import Settings
from tests.support.requests import MODEL, PREPROCESSING


class Gate:
    """Holds what passes while ``held`` is true; :meth:`open` is called from the test's thread."""

    def __init__(self) -> None:
        self.held = False
        self.reached = threading.Semaphore(0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = asyncio.Event()

    async def passed(self) -> None:
        """Wait while it is held."""
        self._loop = asyncio.get_running_loop()
        self.reached.release()
        if self.held:
            await self._opened.wait()

    def open(self) -> None:
        """Let everything pass."""
        self.held = False
        if self._loop:
            self._loop.call_soon_threadsafe(self._opened.set)


class FakeEngine(Engine):
    """Makes noise of the seed, over real generations; can be told to hold, to fail or to flag.

    While ``gate`` is held, a request runs until it is cancelled or the gate is opened.
    A request with previews has one after each step, and then passes ``preview_gate``.
    ``gone`` is set from the server's thread when a request is cancelled.
    """

    def __init__(self) -> None:
        self._making: set[asyncio.Task[None]] = set()
        self.reset()

    def reset(self) -> None:
        """Be as new, for the next test on the same server."""
        self.worker = WorkerState("ready", "ready")
        self.model: ModelInfo | None = MODEL
        self.preprocessing: Preprocessing | None = PREPROCESSING
        self.max_rows: int | None = 8
        self.gate = Gate()
        self.preview_gate = Gate()
        self.gone = threading.Event()
        self.error: Exception | None = None
        self.flagged: frozenset[int] = frozenset()
        self.near: dict[int, NearDuplicate] = {}
        self.parameters: list[Parameters] = []
        self.conditions: list[Condition] = []
        self.predicted = Span(0.5, 1.5)
        self.slow_steps = 1
        self.ends: dict[str, float] = {}
        self.trials = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @property
    def state(self) -> WorkerState:
        return self.worker

    @property
    def accepting(self) -> bool:
        return self.state.phase == "ready"

    def predict(self, parameters: Parameters) -> Span:
        return self.predicted

    def fastest(self, parameters: Parameters) -> float:
        alone = self.predicted.finished - self.predicted.started
        return alone * (self.slow_steps if parameters.num_inference_steps > 1 else 1)

    def finishes(self) -> dict[str, float]:
        return self.ends

    def may_try(self) -> bool:
        """So many ``trials`` are left."""
        self.trials -= 1
        return self.trials >= 0

    def ready_in(self) -> float | None:
        return 0.0 if self.accepting else None if self.state.phase == "failed" else 2.5

    def submit(
        self,
        request_id: str,
        parameters: Parameters,
        condition: Condition,
        within: float = math.inf,
        *,
        previews: bool = False,
    ) -> Generation:
        self.parameters.append(parameters)
        self.conditions.append(condition)
        generation = Generation(request_id, parameters, condition, self, previews=previews)
        generation.queue(2, self.predicted.started)
        match self.error:
            case None:
                task = asyncio.create_task(self._make(generation))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
            case VariationsError() as error if not isinstance(error, Refused):
                generation.fail(error)
            case error:
                raise error
        return generation

    def cancelled(self, generation: Generation) -> None:
        self.gone.set()

    def watched(self, generation: Generation) -> None:
        pass

    def finishes_in(self, generation: Generation) -> float:
        return self.predicted.finished

    async def _make(self, generation: Generation) -> None:
        await self.gate.passed()
        generation.encoded((np.arange(24, dtype=np.float32),))
        everyone = list(range(generation.parameters.n))
        for _ in range(generation.parameters.calls):
            generation.step(everyone)
            if generation.previews:
                generation.preview(0, np.full((16, 16, 3), 99, np.uint8))
                await self.preview_gate.passed()
        for index in range(generation.parameters.n):
            picture = self._picture(generation.parameters, index)
            generation.keep(index, picture, self.near.get(index))
        now = perf_counter()
        stages = (Stage("encode", now, now + 0.2), Stage("denoise", now + 0.2, now + 0.5))
        generation.finish(stages, generation.parameters.num_inference_steps)

    def _picture(self, parameters: Parameters, index: int) -> Picture | None:
        if index in self.flagged:
            return None
        noise = np.random.default_rng(parameters.seed_of(index))
        shape = (parameters.height, parameters.width, 3)
        return noise.integers(0, 256, shape, dtype=np.uint8)


class FakeDecoders(Decoders):
    """Decodes in a thread of this process; can be told to hold, or to fail."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._max_pixels = (settings or Settings()).max_pixels
        self.reset()

    def reset(self) -> None:
        """Be as new, for the next test on the same server."""
        self.gate = Gate()
        self.gone = threading.Event()
        self.error: VariationsError | None = None
        self.busy_for = 0.0
        self.asked_for = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def wait(self, caller: str = "", uploads: int = 1) -> float:
        self.asked_for = uploads
        return self.busy_for

    async def decode(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        fit: Fit,
        preprocessing: Preprocessing,
        caller: str = "",
        size: Size | None = None,
    ) -> Fitted:
        try:
            await self.gate.passed()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        if self.error is not None:
            raise self.error
        picture = await asyncio.to_thread(decode, await read(), max_pixels=self._max_pixels)
        started_from = at_size(picture, size, fit) if size else None
        return Fitted(preprocessing(picture, fit), started_from)
