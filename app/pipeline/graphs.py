"""The UNet call recorded once for each shape and played back: one launch for some thousand kernels.

A CUDA graph holds the very kernels that were recorded, so what is played back is equal to the byte.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import CheckpointError
from app.pipeline.denoiser import Denoiser
from app.pipeline.devices import ran_out_of_memory

Recorder = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], object]]]
"""Records a call: its output, and what makes the call once more into that same output."""

MOST_SHORTAGES = 2
"""In a row, without a step between them. At the next one the recordings' memory is given up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Recording:
    """A call whose inputs and output stay where they are in memory."""

    inputs: tuple[Tensor, ...]
    output: Tensor
    play: Callable[[], object]


class Graphs:
    """A :data:`Denoiser` that plays back the shapes it has recorded and calls another for the rest.

    All recordings use the same memory: they never run at the same time, and an output holds until
    the next call. So the largest is to be recorded first, and the others fit into what it took.
    """

    def __init__(self, denoiser: Denoiser, recorder: Recorder) -> None:
        self._denoiser = denoiser
        self._recorder = recorder
        self._recordings: dict[torch.Size, _Recording] = {}
        self._shortages = 0
        # Memory may run out in another thread than that of the steps.
        self._playing = threading.Lock()

    def __call__(self, latents: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
        with self._playing:
            recording = self._recordings.get(latents.shape)
            if recording:
                given = (latents, times, conditions)
                for held, each in zip(recording.inputs, given, strict=True):
                    held.copy_(each)
                recording.play()
        output = recording.output if recording else self._denoiser(latents, times, conditions)
        self._shortages = 0
        return output

    def replace(self, denoiser: Denoiser) -> None:
        """Call this one from now on; what was recorded of the other is given up."""
        with self._playing:
            self._give_up()
            self._denoiser = denoiser

    def record(self, latents: Tensor, times: Tensor, conditions: Tensor) -> bool:
        """Record the call for the shapes of these; ``False`` where memory does not hold it.

        Raises :class:`CheckpointError` where something in the call cannot be recorded.
        """
        try:
            inputs = tuple(given.clone() for given in (latents, times, conditions))
            output, play = self._recorder(lambda: self._denoiser(*inputs))
        except Exception as error:
            if _came_of_a_shortage(error):
                return False
            if "captur" in str(error).lower():  # CUDA's word for recording
                raise CheckpointError(
                    f"the UNet cannot be recorded as a CUDA graph: {error}; "
                    "VARIATIONS_CUDA_GRAPHS=off runs it without"
                ) from error
            raise
        self._recordings[latents.shape] = _Recording(inputs, output, play)
        return True

    def make_room(self) -> None:
        """Note that memory ran out; where that goes on, give up the recordings and run eagerly."""
        self._shortages += 1
        if self._shortages <= MOST_SHORTAGES:
            return
        with self._playing:
            if self._recordings:
                logger.warning(
                    "Memory stays short: CUDA graphs are given up, and steps run eagerly"
                )
            self._give_up()

    def _give_up(self) -> None:
        if self._recordings:
            _wait_for(next(iter(self._recordings.values())).output.device)
            self._recordings.clear()


def _wait_for(device: torch.device) -> None:
    """Wait until the device has played what it was given: its memory is about to be freed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _came_of_a_shortage(error: BaseException | None) -> bool:
    """True where memory ran out, or where that was what broke off a recording."""
    while error is not None:
        if isinstance(error, Exception) and ran_out_of_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def cuda_recorder() -> Recorder:
    """Records CUDA graphs on the current device, all from one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        # What only a first call does, choosing algorithms and loading kernels, is not recorded.
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread must do nothing else meanwhile; others may look at the device.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = call()
        return output, graph.replay

    return record
