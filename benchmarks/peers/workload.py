"""The requests that are posted, and when: the same for every system, by their seed."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Load = Literal["mix", "uniform"]
LOADS: tuple[Load, ...] = ("mix", "uniform")

PICTURES = (1, 2, 4)
STEPS = (10, 25, 50)
GUIDANCES = (1.0, 3.0, 5.0)
SCHEDULERS = ("ddim", "pndm", "dpmsolver++")


@dataclass(frozen=True, slots=True)
class Item:
    """One request, as the service's form and the peers' JSON name its fields."""

    n: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    seed: int = 0

    @property
    def kind(self) -> str:
        """Requests of a kind take as long as each other: 3 and 5 of guidance are two rows each."""
        guided = "guided" if self.guidance_scale > 1 else "plain"
        return f"{self.n} × {self.num_inference_steps} {self.scheduler} {guided}"


UNIFORM = Item(1, 25, 3.0, "ddim")
"""The only request of the uniform load."""

EVERY = tuple(Item(*fields) for fields in itertools.product(PICTURES, STEPS, GUIDANCES, SCHEDULERS))
"""Each request of the mix."""


def kinds(load: Load) -> dict[str, Item]:
    """One request of each kind."""
    return {item.kind: item for item in ((UNIFORM,) if load == "uniform" else EVERY)}


def requests(load: Load, seed: int) -> Iterator[Item]:
    """Requests without end.

    The mix is dealt like cards, all 81 before any comes again, so that also a short run has its
    shares.
    """
    chance = random.Random(seed)
    while True:
        deck = [UNIFORM] if load == "uniform" else chance.sample(EVERY, len(EVERY))
        for item in deck:
            yield Item(
                item.n, item.num_inference_steps, item.guidance_scale, item.scheduler,
                seed=chance.randrange(2**31),
            )  # fmt: skip


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """The moments, in seconds, of a Poisson process of so many a second."""
    chance = random.Random(seed)
    moments: list[float] = []
    moment = chance.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    return moments
