"""An engine without a model, for tests of what lies above the engine."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.ipc.messages import Done, Stage
from app.parameters import Fit, ModelInfo, Parameters, Scheduler
from app.pictures import Picture
from app.scheduling.forecast import Span

MODEL = ModelInfo(
    id="fake",
    revision="v1",
    guidance_scale=3.0,
    num_inference_steps=4,
    scheduler=Scheduler.DDIM,
    fit=Fit.SQUASH,
    sizes=((64, 64), (96, 64)),
    device="cpu",
    dtype="float32",
    safety_checker=True,
)


@dataclass(slots=True)
class FakeState:
    """The worker's state, as a test wants it."""

    phase: str = "ready"
    reason: str = "ready"
    fraction: float | None = None


class FakeEngine:
    """Answers with noise of the seed; can be told to hold, to fail or to flag.

    While ``hold`` is true, a request runs until it is cancelled or :meth:`release` is called.
    ``began`` and ``cancelled`` are set from the server's thread, for tests to wait on.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reset()

    def reset(self) -> None:
        """Be as new, for the next test on the same server."""
        self.state = FakeState()
        self.model: ModelInfo | None = MODEL
        self.max_rows: int | None = 8
        self.hold = False
        self.error: Exception | None = None
        self.flagged: frozenset[int] = frozenset()
        self.pictures: list[Picture] = []
        self.parameters: list[Parameters] = []
        self.foreseen = Span(0.5, 1.5)
        self.ends: dict[str, float] = {}
        self.trying = False
        self.began = threading.Semaphore(0)
        self.cancelled = threading.Event()
        self._released = asyncio.Event()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        pass

    def release(self) -> None:
        """Let everything go on that is held; called from the test's thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._released.set)

    @property
    def accepting(self) -> bool:
        return self.state.phase == "ready"

    def foresee(self, parameters: Parameters) -> Span:
        return self.foreseen

    def takes(self, parameters: Parameters) -> float:
        return self.foreseen.finished - self.foreseen.started

    def finishes(self) -> dict[str, float]:
        return self.ends

    def may_try(self) -> bool:
        return self.trying

    def ready_in(self) -> float | None:
        return 0.0 if self.accepting else None if self.state.phase == "failed" else 2.5

    async def run(
        self,
        request_id: str,
        read: Callable[[], Awaitable[Picture]],
        parameters: Parameters,
        fingerprint: bytes,
    ) -> Done:
        self.pictures.append(await read())
        self.parameters.append(parameters)
        self.began.release()
        if self.error is not None:
            raise self.error
        if self.hold:
            await self._wait()
        made = tuple(self._picture(parameters, index) for index in range(parameters.n))
        now = perf_counter()
        stages = (Stage("encode", now, now + 0.2), Stage("denoise", now + 0.2, now + 0.5))
        return Done(request_id, made, stages, parameters.num_inference_steps)

    async def _wait(self) -> None:
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _picture(self, parameters: Parameters, index: int) -> Picture | None:
        if index in self.flagged:
            return None
        noise = np.random.default_rng(parameters.seed + index)
        shape = (parameters.height, parameters.width, 3)
        return noise.integers(0, 256, shape, dtype=np.uint8)
