"""The order in which samples are stepped, simulated: ``python -m benchmarks.order``.

Requests of a mix arrive at random (n of 1, 2, 4; 10, 25, 50 steps; guidance for two in three) at a
worker whose steps of r rows take ``11.5 + 2.85 r`` ms, as the built-in model's do on one core. What
is compared is who runs while not all fit under the row cap:

* ``arrival``: whoever came first,
* ``least left``: the least work left, in row-steps of the whole request,
* ``shortest``: the least work in all,
* ``slowdown``: the highest ratio of the time since arrival to the time alone,
* ``due``: the batcher's own rule, :func:`app.scheduling.batcher.due_at`, with several patiences.

Times are simulated, so a run is the same on every machine.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import typer

from app.parameters import Fit, Parameters, Scheduler
from app.scheduling.batcher import PATIENCE

ENCODE = 0.0025
DECODED_AT_ONCE = 4


def step_seconds(rows: int) -> float:
    """Seconds of a step."""
    return (11.5 + 2.85 * rows) / 1e3


def decode_seconds(pictures: int) -> float:
    """Seconds of a decode."""
    return (4 + 12.7 * pictures) / 1e3


@dataclass(slots=True, eq=False)
class Request:
    """A request: ``arrived`` and ``finished`` in seconds, ``came_at`` in row-steps done by then."""

    arrived: float
    parameters: Parameters
    finished: float = 0.0
    came_at: int = 0
    left: list[int] = field(default_factory=list)

    @property
    def work(self) -> int:
        """Row-steps in all."""
        return self.parameters.row_steps

    @property
    def alone(self) -> float:
        """Seconds with nothing else to do."""
        each = self.parameters
        steps = each.calls * step_seconds(each.n * each.rows)
        return ENCODE + steps + decode_seconds(each.n)


Order = Callable[[Request, float], float]
"""A request and the time now to its place: the smallest goes first."""


def orders(patiences: list[int]) -> dict[str, Order]:
    """What is compared, by name."""
    by_due: dict[str, Order] = {
        f"due, {patience}": lambda one, _now, patience=patience: one.came_at + patience * one.work  # type: ignore[misc]
        for patience in patiences
    }
    return {
        "arrival": lambda one, _now: one.arrived,
        "least left": lambda one, _now: one.parameters.rows * sum(one.left),
        "shortest": lambda one, _now: one.work,
        "slowdown": lambda one, now: -(now - one.arrived) / one.alone,
        **by_due,
    }


def arrivals(rate: float, number: int, seed: int) -> list[Request]:
    """Requests of the mix, so many a second."""
    rng, now, requests = random.Random(seed), 0.0, []
    for _ in range(number):
        now += rng.expovariate(rate)
        parameters = Parameters(
            n=rng.choice((1, 2, 4)), guidance_scale=rng.choice((1.0, 3.0, 5.0)),
            num_inference_steps=rng.choice((10, 25, 50)), scheduler=Scheduler.DDIM,
            seed=0, width=64, height=64, fit=Fit.SQUASH,
        )  # fmt: skip
        left = [parameters.calls] * parameters.n
        requests.append(Request(now, parameters, left=left))
    return requests


def run(requests: list[Request], order: Order, cap: int) -> None:
    """Have the worker take turns until all are finished."""
    now, work_done, coming = 0.0, 0, list(reversed(requests))
    line: list[Request] = []
    undecoded: list[Request] = []
    while coming or line or undecoded:
        if not line and not undecoded:
            now = max(now, coming[-1].arrived)
        while coming and coming[-1].arrived <= now:
            line.append(coming.pop())
            line[-1].came_at = work_done
            now += ENCODE
        at = now
        line.sort(key=lambda one: order(one, at))
        rows = 0
        running: list[tuple[Request, int]] = []
        for one in line:
            for index, left in enumerate(one.left):
                if left and (rows + one.parameters.rows <= cap or not running):
                    rows += one.parameters.rows
                    running.append((one, index))
        now += step_seconds(rows) if running else 0.0
        work_done += rows
        for one, index in running:
            one.left[index] -= 1
            if not any(one.left):
                undecoded.append(one)
        line = [one for one in line if any(one.left)]
        pictures = 0
        while undecoded and pictures < DECODED_AT_ONCE:
            one = undecoded.pop(0)
            pictures += one.parameters.n
            now += decode_seconds(one.parameters.n)
            one.finished = now


def figures(requests: list[Request]) -> str:
    """A row of the table."""
    took = sorted(one.finished - one.arrived for one in requests)
    slowdowns = [(one.finished - one.arrived) / one.alone for one in requests]
    within = sum(each <= 3 for each in slowdowns) / len(slowdowns)
    p50, p95, p99 = (took[int(share * len(took))] for share in (0.5, 0.95, 0.99))
    return (
        f"{p50:6.2f} | {p95:6.2f} | {p99:6.2f} | {took[-1]:6.1f} | {within:4.0%} | "
        f"{max(slowdowns):6.1f}"
    )


def main(
    rates: Annotated[list[float], typer.Option("--rate", help="Requests a second.")] = [1.9, 2.3],  # noqa: B006
    caps: Annotated[list[int], typer.Option("--cap", help="Rows.")] = [16, 32],  # noqa: B006
    requests: Annotated[int, typer.Option(help="Of each run.")] = 3000,
) -> None:
    """Print a table for each rate and cap."""
    for rate in rates:
        for cap in caps:
            typer.echo(f"\n{rate} requests/s, at most {cap} rows\n")
            typer.echo("order      |    p50 |    p95 |    p99 |    max | < 3x | slowest")
            for name, order in orders([1, PATIENCE, 5, 10, 20]).items():
                made = arrivals(rate, requests, seed=0)
                run(made, order, cap)
                typer.echo(f"{name:10} | {figures(made)}")


if __name__ == "__main__":
    typer.run(main)
