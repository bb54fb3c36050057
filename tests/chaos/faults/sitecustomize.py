"""Misfortunes raised inside the real worker, on demand; Python imports this when it starts.

Only a worker whose ``CHAOS_FAULTS`` names a folder is touched. A file ``encode``, ``step`` or
``decode`` in it makes the next such call raise what the file says, once: ``memory`` or ``error``.
A request with seed :data:`POISON` ends the worker in its second step, whenever it runs.
"""

import os
import sys

POISON = 666

if "app.worker" in sys.orig_argv and "CHAOS_FAULTS" in os.environ:
    from pathlib import Path
    from typing import Any
    from weakref import WeakSet

    import torch

    from app.pipeline import Pipeline

    folder = Path(os.environ["CHAOS_FAULTS"])
    poisonous: WeakSet[Any] = WeakSet()
    plain = {name: getattr(Pipeline, name) for name in ("encode", "start", "step", "decode")}

    def strike(stage: str) -> None:
        """Raise what a file asks for; whoever removes the file has struck."""
        wish = folder / stage
        try:
            kind = wish.read_text()
            wish.unlink()
        except FileNotFoundError:
            return
        if kind == "memory":
            raise torch.OutOfMemoryError("chaos: out of memory")
        raise RuntimeError("chaos: an error")

    def encode(self: Any, *arguments: Any) -> Any:
        strike("encode")
        return plain["encode"](self, *arguments)

    def start(self: Any, embedding: Any, parameters: Any, index: int) -> Any:
        sample = plain["start"](self, embedding, parameters, index)
        if parameters.seed == POISON:
            poisonous.add(sample)
        return sample

    def step(self: Any, samples: Any, bucket: int | None = None) -> Any:
        strike("step")
        if any(s in poisonous and s.steps_left < s.steps for s in samples):
            os.abort()
        return plain["step"](self, samples, bucket)

    def decode(self: Any, *arguments: Any, **named: Any) -> Any:
        strike("decode")
        return plain["decode"](self, *arguments, **named)

    for replacement in (encode, start, step, decode):
        setattr(Pipeline, replacement.__name__, replacement)
