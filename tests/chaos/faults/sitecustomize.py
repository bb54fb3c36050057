"""Misfortunes raised inside the real worker, on demand; Python imports this when it starts.

Only where ``CHAOS_FAULTS`` names a folder is anything touched. Both processes count what they hold
when they get a SIGUSR2, into a file ``census-<pid>`` there. In a worker that is ready a
file ``encode``, ``start``, ``step`` or ``decode`` makes the next such call raise what the file
says, once: ``memory`` or ``error``; each adds a byte to the file ``struck``. A request with seed
:data:`POISON` ends the worker in its second step, whenever it runs.
"""

import asyncio
import gc
import os
import signal
import sys
from concurrent.futures import Future
from pathlib import Path

POISON = 666


def census(*_: object) -> None:
    """Write how many futures, tasks and samples this process holds, garbage left out."""
    gc.collect()
    samples = getattr(sys.modules.get("app.pipeline.samples"), "Sample", ())
    futures = sum(isinstance(one, asyncio.Future | Future) for one in gc.get_objects())
    file = Path(os.environ["CHAOS_FAULTS"], f"census-{os.getpid()}")
    half = file.with_suffix(".half")
    half.write_text(f"{futures} {sum(isinstance(one, samples) for one in gc.get_objects())}")
    half.rename(file)


if "CHAOS_FAULTS" in os.environ:
    signal.signal(signal.SIGUSR2, census)

if "app.worker.main" in sys.orig_argv and "CHAOS_FAULTS" in os.environ:
    from typing import Any

    import torch

    from app.pipeline import Pipeline
    from app.worker.loop import Worker

    folder = Path(os.environ["CHAOS_FAULTS"])
    poisonous: list[Any] = []  # its first ends the process
    serving: list[Worker] = []
    run = Worker.run
    plain = {name: getattr(Pipeline, name) for name in ("conditions", "start", "step", "decode")}

    def strike(stage: str) -> None:
        """Raise what a file asks for; whoever removes the file has struck."""
        wish = folder / stage
        if not serving:  # whose warm-up fails for an error of no known kind is not started again
            return
        try:
            kind = wish.read_text()
            wish.unlink()
        except FileNotFoundError:
            return
        with (folder / "struck").open("a") as struck:
            struck.write(".")
        if kind == "memory":
            raise torch.OutOfMemoryError("chaos: out of memory")
        raise RuntimeError("chaos: an error")

    def conditions(self: Any, *arguments: Any) -> Any:
        strike("encode")
        return plain["conditions"](self, *arguments)

    def start(self: Any, rows: Any, parameters: Any, *more: Any) -> Any:
        strike("start")
        sample = plain["start"](self, rows, parameters, *more)
        if parameters.seed == POISON:
            poisonous.append(sample)
        return sample

    def step(self: Any, samples: Any, bucket: int | None = None) -> Any:
        strike("step")
        if any(s is one and s.steps_left < s.steps for s in samples for one in poisonous):
            os.abort()
        return plain["step"](self, samples, bucket)

    def decode(self: Any, *arguments: Any, **named: Any) -> Any:
        strike("decode")
        return plain["decode"](self, *arguments, **named)

    def serve(self: Worker) -> None:
        serving.append(self)
        run(self)

    Worker.run = serve  # type: ignore[assignment,method-assign]
    for replacement in (conditions, start, step, decode):
        setattr(Pipeline, replacement.__name__, replacement)
