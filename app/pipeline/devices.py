"""The device to run on, its number types and threads, and the errors of a full memory."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from app.errors import CheckpointError, DeviceUnavailable
from app.parameters import ModelConfig

if TYPE_CHECKING:
    from app.pipeline.checkpoint import Parts

logger = logging.getLogger(__name__)

_NO_MEMORY = (
    "can't allocate memory",  # on a CPU
    "cuda error: out of memory",  # for a kernel, an event, pinned memory
    "status_alloc_failed",  # in cuBLAS, cuDNN, cuSPARSE
)

_OF_CUDA = ("cuda error", "cuda driver", "cudnn_status", "cublas_status", "cudnn error")

SMALL = 5_000_000
"""Parameters of a vision transformer that is computed by one thread; CLIP's have 300 million."""

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Dtypes:
    """``unet`` runs at every step; ``others`` once a picture."""

    unet: torch.dtype
    others: torch.dtype


def choose_device(device: str) -> torch.device:
    """``auto`` is the GPU where torch has one, CUDA's or ROCm's, else the CPU; or torch's name.

    A GPU named by its number becomes this process's current one: streams, events and pinned memory
    are of that. Raises :class:`CheckpointError` where there can be no such device, and
    :class:`DeviceUnavailable` where it does not work.
    """
    for_gpus = torch.version.cuda or torch.version.hip
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and for_gpus:
            logger.warning("torch is built for GPUs and finds none: running on the CPU")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type == "cuda" and chosen.index is not None:
            torch.cuda.set_device(chosen)
    # torch raises one or the other, by its build and by what is wrong.
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        final = device.partition(":")[0] != "cuda" or not for_gpus
        kind = CheckpointError if final else DeviceUnavailable
        raise kind(f"the device {device!r} cannot be used: {error}") from error
    return chosen


def choose_dtypes(dtype: str, device: torch.device, cpu_dtype: str | None) -> Dtypes:
    """``auto`` is float16 on CUDA; on a CPU ``cpu_dtype``, else bfloat16 where it is native.

    bfloat16 has 8 bits of precision, too few for 256 levels of colour or for a threshold of the
    safety checker: only the UNet takes it, and what runs once a picture stays in float32.
    """
    if dtype == "auto":
        dtype = "float16" if device.type == "cuda" else cpu_dtype or native_cpu_dtype()
    if dtype not in _DTYPES:
        raise CheckpointError(f"dtype is one of auto, {', '.join(_DTYPES)}, not {dtype!r}")
    chosen: torch.dtype = getattr(torch, dtype)
    return Dtypes(chosen, torch.float32 if chosen == torch.bfloat16 else chosen)


def native_cpu_dtype() -> str:
    """bfloat16 where the processor computes in it; elsewhere it would be emulated, slowly."""
    return "bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"


def _cpu_flags() -> set[str]:
    """The processor's features as Linux lists them; elsewhere none, which means float32."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def onednn_computes_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here and takes this type, on an x86: what it has elsewhere is not known."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or platform.machine() not in ("x86_64", "AMD64"):
        return False
    bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or bool(bfloat16)


@contextmanager
def one_thread_if_small(encoder: torch.nn.Module) -> Iterator[None]:
    """Have a small vision transformer on a CPU computed by one thread in here.

    Its products are so short that two threads gain two milliseconds; but beside other work, which
    a service has between two steps, they wait for each other at every one of them: on two cores
    four pictures took 30 ms instead of 10.
    """
    weights = list(encoder.parameters())
    if weights[0].device.type != "cpu" or sum(map(torch.numel, weights)) > SMALL:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, through pinned memory so that the host does not wait for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetched(tensor: Tensor) -> Tensor:
    """A copy on the CPU, once the device has done all that was asked of it until now."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    event_now(tensor.device).synchronize()
    return copy


def event_now(device: torch.device) -> Any:
    """CUDA's event for the end of all that was asked of the device until now; else ``None``.

    Who waits for it sleeps: waiting as CUDA does by itself would keep a core busy.
    """
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def ran_out_of_memory(error: Exception) -> bool:
    """True where the error says so: outside torch's own allocators it does in words alone."""
    said = isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _NO_MEMORY)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def is_of_the_device(error: Exception) -> bool:
    """True where a GPU, its driver or its libraries failed, and not what they were to do."""
    said = isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _OF_CUDA)
    return said or isinstance(error, torch.AcceleratorError)


def place(parts: "Parts", device: torch.device, config: ModelConfig) -> None:
    """Move the parts of a checkpoint to the device, and have them save what memory is asked for."""
    for part in (parts.unet, parts.vae):
        part.to(device, memory_format=torch.channels_last)
    for part in (parts.image_encoder, parts.safety_checker):
        if part is not None:
            part.to(device)
    if config.attention_slicing != "off":
        parts.unet.set_attention_slice(config.attention_slicing)
    if config.vae_slicing:
        parts.vae.enable_slicing()
