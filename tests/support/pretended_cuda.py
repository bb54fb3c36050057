"""A pretended CUDA device on a machine without one, with real numbers.

Its tensors say that they are on ``cuda:0`` and compute on the CPU. What CUDA does not allow raises
here as well: operations on tensors of both devices, NumPy on a tensor of the device, and, while a
graph is recorded, anything but operations on the device. What makes the host wait for the device is
counted. A copy into pinned memory that nobody waits for does not arrive: until its event has been
waited for, the memory holds what it held. A graph that is played back runs the recorded operations
again on the same memory, and nothing of the Python code that asked for them.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.host_tensors import (
    asked_by,
    copy,
    flat,
    is_pinned,
    memory,
    on_the_host,
    pinned,
    without_device,
)

CUDA = torch.device("cuda:0")

_READ_BY_THE_HOST = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
"""Operations whose outcome, or its shape, the host cannot know before the device is done."""

_TRANSFERS = {"copy_", "_to_copy", "to", "index", "index_put_", "_index_put_impl_"}
"""Operations that may have tensors of both devices."""

_GUARDED = {
    Tensor.contiguous: torch.ops.aten.contiguous.default,
    Tensor.copy_: torch.ops.aten.copy_.default,
}
"""Methods that make their tensor's device current before they get to their operation."""

_MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and"
_WHILE_RECORDING = "CUDA error: operation not permitted when stream is capturing"


class OnDevice(Tensor):
    """A tensor of the pretended device around one of the CPU, ``on_cpu``."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, tensor: Tensor) -> "OnDevice":
        with torch.inference_mode(False):
            made: OnDevice = torch.Tensor._make_wrapper_subclass(
                cls, tensor.shape, strides=tensor.stride(), storage_offset=tensor.storage_offset(),
                dtype=tensor.dtype, device=CUDA,
            )  # fmt: skip
        made.on_cpu = tensor
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.on_cpu!r})"

    def tolist(self) -> Any:
        _device().host_waits()
        return self.on_cpu.tolist()

    def record_stream(self, _stream: object) -> None:
        """There is only one."""

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _device().run(func, args, kwargs or {})


class Event:
    """An event: whoever waits for it sees the copies that were asked for before it.

    Between any two that keep the time a millisecond passes.
    """

    def __init__(self, *, blocking: bool = False, enable_timing: bool = False) -> None:
        assert blocking or enable_timing, "waiting for this event would keep a core busy"
        self._arriving: list[tuple[Tensor, Tensor]] = []

    def record(self, _stream: object = None) -> None:
        if _device().recording is not None:
            raise torch.AcceleratorError(_WHILE_RECORDING)
        self._arriving = list(_device().arriving)

    def synchronize(self) -> None:
        _device().host_waits()
        for target, source in self._arriving:
            target.copy_(source)
        _device().arriving.clear()

    def elapsed_time(self, _ended: "Event") -> float:
        return 1.0


class Stream:
    """A stream: there is only one."""

    def wait_stream(self, _other: "Stream") -> None: ...


@dataclass(eq=False)
class Graph:
    """Operations in the order in which they were recorded."""

    operations: list[Callable[[], None]] = field(default_factory=list)
    plays: int = 0

    def replay(self) -> None:
        self.plays += 1
        for operation in self.operations:
            operation()


@contextmanager
def _recording(graph: Graph, *, pool: object, capture_error_mode: str) -> Iterator[None]:
    device = _device()
    assert device.recording is None
    assert pool == device.pool, "graphs share one pool"
    assert capture_error_mode == "thread_local", "other threads may look at the device"
    device.recording = graph
    try:
        yield
    finally:
        device.recording = None
    device.graphs.append(graph)


@dataclass(eq=False)
class PretendedCuda:
    """What has happened on the device.

    ``waits`` counts, by the innermost function of the application, where the host had to wait.
    """

    waits: Counter[str] = field(default_factory=Counter)
    graphs: list[Graph] = field(default_factory=list)
    emptied: int = 0
    pool: object = field(default_factory=object)
    recording: Graph | None = None
    arriving: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def host_waits(self) -> None:
        if self.recording is not None:
            raise torch.AcceleratorError(_WHILE_RECORDING)
        self.waits[asked_by()] += 1

    def empty_cache(self) -> None:
        self.emptied += 1

    def indexed(self, func: Any, target: Any, index: Any, *value: Any) -> Any:
        if not isinstance(target, OnDevice):
            raise RuntimeError(f"{_MIXED} cpu, in {func.__name__}")
        for each in flat((index, value)):
            if isinstance(each, Tensor) and not isinstance(each, OnDevice):
                self.host_waits()  # it is copied to the device from memory that is not pinned
            if isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8):
                self.host_waits()  # the shape of what a mask selects
        return self._compute(func, tree_map(_on_cpu, (target, index, *value)), {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a dispatched operation comes to, and what it would mean on the device."""
        name = func._schema.name.partition("::")[2]
        leaves = [*flat(args), *flat(kwargs.values())]
        ours = [each for each in leaves if isinstance(each, OnDevice)]
        device = next((each for each in leaves if isinstance(each, torch.device)), None)
        if not ours and (device is None or device.type != "cuda"):
            return on_the_host(func, args, kwargs)
        hosts = [each for each in leaves if _is_tensor(each) and not isinstance(each, OnDevice)]
        if ours and name not in _TRANSFERS and any(each.dim() for each in hosts):
            raise RuntimeError(f"{_MIXED} cpu, in {name}")
        if name in _READ_BY_THE_HOST:
            self.host_waits()
        if name == "copy_" and hosts:
            return self._copied(*args, **kwargs)
        args, kwargs = tree_map(_on_cpu, (args, kwargs))
        args = tuple(torch.device("cpu") if isinstance(a, torch.device) else a for a in args)
        if device is None or (device.type == "cuda" and ours):
            return self._compute(func, args, without_device(kwargs), leaves)
        if device.type == "meta":
            return func(*args, **kwargs)
        if device.type == "cpu":
            if name in _TRANSFERS:
                self.host_waits()
            return copy(on_the_host(func, args, without_device(kwargs)))
        if hosts and not (is_pinned(hosts[0]) and kwargs.get("non_blocking")):
            self.host_waits()
        if self.recording is not None and hosts:
            raise torch.AcceleratorError(_WHILE_RECORDING)
        return OnDevice(copy(func(*args, **without_device(kwargs))))

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """A copy between the devices, into ``target``."""
        if self.recording is not None:
            raise torch.AcceleratorError(_WHILE_RECORDING)
        host = source if isinstance(target, OnDevice) else target
        soon = non_blocking and is_pinned(host)
        if not soon:
            self.host_waits()
        if soon and host is target:
            self.arriving.append((target, _on_cpu(source).clone()))
        else:
            _on_cpu(target).copy_(_on_cpu(source))
        return target

    def _compute(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Any = ()
    ) -> Any:
        """Compute on the CPU, and note how to do it again on the same memory."""
        result = func(*args, **kwargs)
        if self.recording is not None:
            made = [each for each in tree_leaves(result) if _is_tensor(each)]
            before = {memory(each) for each in tree_leaves((args, kwargs)) if _is_tensor(each)}
            changes = func is Tensor.__setitem__ or getattr(func, "_schema", None)
            in_place = changes is True or (changes and changes.is_mutable)
            if in_place:
                self.recording.operations.append(lambda: func(*args, **kwargs))
            elif not all(memory(each) in before for each in made):

                def again() -> None:
                    for old, new in zip(made, tree_leaves(func(*args, **kwargs)), strict=False):
                        old.copy_(new)

                self.recording.operations.append(again)
        known = {id(each.on_cpu): each for each in leaves if isinstance(each, OnDevice)}
        return tree_map(
            lambda each: known[id(each)] if id(each) in known else _on_device(each), result
        )


class _Functions(TorchFunctionMode):
    """Sees what torch would ask CUDA about before it gets to operations.

    That is the number of the current device, and to make it current for some methods.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args = tuple(_numbered(each) for each in args)
        kwargs = {name: _numbered(value) for name, value in (kwargs or {}).items()}
        if not any(isinstance(each, OnDevice) for each in flat(args)):
            return func(*args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return _device().indexed(func, *args)
        if operation := _GUARDED.get(func):
            return _device().run(operation, args, kwargs)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what no tensor of the device takes part in: what makes one, and pinned memory."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _device().run(func, args, kwargs or {})


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _numbered(value: Any) -> Any:
    named = isinstance(value, str | torch.device) and str(value) == "cuda"
    return CUDA if named else value


def _on_cpu(value: Any) -> Any:
    return value.on_cpu if isinstance(value, OnDevice) else value


def _on_device(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) else value


_present: list[PretendedCuda] = []


def _device() -> PretendedCuda:
    return _present[-1]


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """The device is there, for this thread, until the end of the block."""
    device = PretendedCuda()
    stream = Stream()
    replaced = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "empty_cache": device.empty_cache,
        "synchronize": lambda *_: device.host_waits(),
        "current_stream": lambda *_: stream,
        "Stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": _recording,
        "graph_pool_handle": lambda: device.pool,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(Tensor, "pin_memory", lambda tensor, *_: pinned(tensor))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        _present.append(device)
        try:
            with _Functions(), _Operations():  # type: ignore[no-untyped-call]
                yield device
        finally:
            _present.pop()
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
