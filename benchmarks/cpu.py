"""A step on a CPU: the UNet as it is served against diffusers' and OpenVINO's: ``python -m
benchmarks.cpu``.

All have the same random weights of Stable Diffusion 1's architecture, the same inputs and the same
number of threads, and take turns in one process. Each precision has results of its own, such as
``cpu-float32``. OpenVINO, of the extra ``openvino``, gets a model of fixed shapes for each number
of rows, which is what it is fastest with. Compiling diffusers' UNet takes minutes for each number
of rows, so it is left to ``--compiled``.
"""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.contenders import (
    Kind,
    Timed,
    deviation,
    diffusers_own,
    in_turns,
    inputs,
    random_unet,
    served,
)
from benchmarks.report import PACKAGES, Plot, PublishAnyway, recording, write

ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Most that outputs may differ from diffusers' in the same precision, relatively."""

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender at one precision and number of rows; ``gain`` is over diffusers' seconds."""

    dtype: str
    rows: int
    denoiser: str
    seconds: float
    processor_seconds: float
    gain: float
    processor_gain: float
    deviation: float


class _Traced(torch.nn.Module):
    """diffusers' UNet with nothing but tensors in and out."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.unet(latents, timesteps, tokens, return_dict=False)[0]
        return outputs


@torch.no_grad()
def openvino(unet: Any, rows: int, dtype: torch.dtype, threads: int) -> Predict:
    """diffusers' float32 UNet, converted to OpenVINO for this number of rows."""
    import openvino as ov  # noqa: PLC0415

    example = tuple(each.contiguous() for each in inputs(unet, rows))
    model = ov.convert_model(
        _Traced(unet), example_input=example, input=[list(each.shape) for each in example]
    )
    precision = "bf16" if dtype == torch.bfloat16 else "f32"
    request = ov.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    ).create_infer_request()

    def predict(latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        given = [each.float().contiguous().numpy() for each in (latents, timesteps, tokens)]
        return torch.from_numpy(request.infer(given)[0])

    return predict


def measure(
    kind: Kind, dtype: torch.dtype, rows: Sequence[int], rounds: int, also: Sequence[str]
) -> list[Figure]:
    """All contenders in this precision, at each number of rows."""
    unet = random_unet(kind, dtype)
    contenders: dict[str, Predict] = {"diffusers": diffusers_own(unet), "served": served(unet)}
    if "compiled" in also:
        contenders["diffusers, compiled"] = diffusers_own(unet, compile_it=True)
        contenders["served, compiled"] = served(unet, compile_it=True)
    found = []
    for number in rows:
        given = inputs(unet, number)
        if "openvino" in also:
            contenders.pop("OpenVINO", None)  # of other rows, whose weights can go before
            gc.collect()
            # It converts float32, whatever it is to compute in.
            exact = unet if dtype == torch.float32 else random_unet(kind, torch.float32)
            exact.load_state_dict(unet.state_dict())
            contenders["OpenVINO"] = openvino(exact, number, dtype, torch.get_num_threads())
            del exact
        found += _figures(contenders, given, dtype, rounds)
        gc.collect()
    return found


def _figures(
    contenders: dict[str, Predict],
    given: tuple[Tensor, Tensor, Tensor],
    dtype: torch.dtype,
    rounds: int,
) -> list[Figure]:
    with torch.inference_mode():
        expected = contenders["diffusers"](*given)
        off = {name: deviation(call(*given), expected) for name, call in contenders.items()}
    for name, value in off.items():
        if not value <= ALLOWED[dtype]:
            raise RuntimeError(f"{name} is off by {value:.1%} from diffusers in {dtype}")
    timed = in_turns({name: partial(call, *given) for name, call in contenders.items()}, rounds)
    theirs = timed["diffusers"]
    return [_figure(name, given, dtype, each, theirs, off[name]) for name, each in timed.items()]


def _figure(
    name: str, given: tuple[Tensor, ...], dtype: torch.dtype, own: Timed, theirs: Timed, off: float
) -> Figure:
    return Figure(
        dtype=str(dtype).removeprefix("torch."),
        rows=len(given[0]),
        denoiser=name,
        seconds=own.seconds,
        processor_seconds=own.processor_seconds,
        gain=theirs.seconds / own.seconds,
        processor_gain=theirs.processor_seconds / own.processor_seconds,
        deviation=off,
    )


def table(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """A row for each figure."""
    return [
        {
            "precision": each.dtype,
            "rows": each.rows,
            "denoiser": each.denoiser,
            "seconds a step": each.seconds,
            "over diffusers": f"{each.gain:.2f}×",
            "by processor time": f"{each.processor_gain:.2f}×",
        }
        for each in figures
    ]


def plots(figures: Sequence[Figure]) -> list[Plot]:
    """Bars of seconds for each precision."""
    panels = []
    for dtype in dict.fromkeys(each.dtype for each in figures):
        lines: dict[str, list[tuple[float | str, float]]] = {}
        for each in figures:
            if each.dtype == dtype:
                lines.setdefault(each.denoiser, []).append((f"{each.rows} rows", each.seconds))
        panels.append(Plot(f"A step in {dtype}", "", "seconds", lines))
    return panels


def main(
    kind: Annotated[str, typer.Option(help="`full-size`, or `tiny` to try it out.")] = "full-size",
    rows: Annotated[str, typer.Option(help="Numbers of rows, with commas.")] = "2,8",
    dtypes: Annotated[str, typer.Option(help="Precisions, with commas.")] = "bfloat16,float32",
    threads: Annotated[int, typer.Option(help="Threads; 0: one for each core.")] = 0,
    rounds: Annotated[int, typer.Option(help="Calls of each, of which medians are taken.")] = 5,
    compiled: Annotated[bool, typer.Option(help="Compile too, for minutes.")] = False,
    publish_anyway: PublishAnyway = False,
) -> None:
    """Measure and hand in the figures."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    also = ["compiled"] if compiled else []
    if find_spec("openvino"):
        also.append("openvino")
    else:
        print("Without OpenVINO, which is not installed: the extra `openvino` has it")
    wanted: Kind = "tiny" if kind == "tiny" else "full-size"
    prefix = "cpu" if wanted == "full-size" else "cpu-tiny"
    for each in dtypes.split(","):
        dtype: torch.dtype = getattr(torch, each)
        with recording([*PACKAGES, "openvino"]) as run:
            run.machine["threads"] = f"{torch.get_num_threads()} threads"
            found = measure(wanted, dtype, [int(n) for n in rows.split(",")], rounds, also)
        figures = [asdict(one) for one in found]
        name = f"{prefix}-{each}"
        write(name, run, figures, table(found), plots(found), publish_anyway=publish_anyway)


if __name__ == "__main__":
    typer.run(main)
