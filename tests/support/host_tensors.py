"""What the pretended CUDA device asks of tensors on the CPU, and of who uses them."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values, and those in lists and tuples among them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield value


def memory(tensor: Tensor) -> int:
    """Where the storage of a tensor is: views share it."""
    return tensor.untyped_storage().data_ptr()


def copy(tensor: Tensor) -> Tensor:
    """A copy in memory of its own, unless it is pinned, which it was made for."""
    return tensor if is_pinned(tensor) else tensor.clone()


def without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of an operation, but for where its outcome is."""
    return {name: value for name, value in kwargs.items() if name != "device"}


def is_pinned(tensor: Tensor) -> bool:
    """True of memory that the device copies from and to while the host goes on."""
    return getattr(tensor, "pretended_pinned", False)


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory: a mark is all there is to that without a device."""
    marked = tensor.detach().clone()
    marked.pretended_pinned = True  # type: ignore[attr-defined]
    return marked


def on_the_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation without a device comes to."""
    others = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    result = func(*args, **others)
    return pinned(result) if kwargs.get("pin_memory") else result


def asked_by() -> str:
    """The innermost function of the application that is running, as ``module.function``.

    Not those of ``devices``, which fetch for others.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("app.") and module != "app.pipeline.devices":
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "test"
