"""Clients of a running service: mixed requests, sent as a well-behaved client sends them."""

import asyncio
import base64
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SOLVERS = ("pndm", "ddim", "euler", "heun", "dpmsolver++", "unipc", "deis")
MOST_TRIES = 60

Form = dict[str, str]


def mixed_forms(n: int, seed: int) -> list[Form]:
    """``n`` requests of every solver and of several lengths, guidances and numbers of pictures."""
    random = Random(seed)
    return [
        {
            "scheduler": random.choice(SOLVERS),
            "num_inference_steps": str(random.randint(4, 20)),
            "guidance_scale": random.choice(["1", "3", "7.5"]),
            "n": str(random.randint(1, 3)),
            "seed": str(10_000 + 10 * number),
        }
        for number in range(n)
    ]


def photo(seed: int = 0) -> bytes:
    """A small picture as a file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(slots=True)
class Crowd:
    """Clients that post ``forms``, ``at_once`` of them at a time, each trying again as told."""

    url: str
    forms: list[Form]
    at_once: int
    in_flight: set[int] = field(default_factory=set)
    responses: dict[int, httpx.Response] = field(default_factory=dict)

    async def post_all(self) -> list[httpx.Response]:
        """Every answer, in the order of the forms."""
        line = iter(range(len(self.forms)))
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=300, limits=limits) as client:

            async def one_client() -> None:
                for number in line:
                    self.in_flight.add(number)
                    self.responses[number] = await post_patiently(client, self.forms[number])
                    self.in_flight.discard(number)

            await asyncio.gather(*(one_client() for _ in range(self.at_once)))
        return [self.responses[number] for number in range(len(self.forms))]


async def post_patiently(client: httpx.AsyncClient, form: Form) -> httpx.Response:
    """Post, and where it is refused for now post again after the time that the refusal names."""
    for _ in range(MOST_TRIES):
        response = await post(client, form)
        if response.status_code not in (429, 503):
            return response
        await asyncio.sleep(int(response.headers["retry-after-ms"]) / 1000)
    return response


async def post(client: httpx.AsyncClient, form: Form, **headers: str) -> httpx.Response:
    """Post once."""
    files = {"image": ("a.png", photo(int(form["seed"]) % 7))}
    return await client.post("/variations", files=files, data=form, headers=headers)


def pictures(response: httpx.Response) -> NDArray[np.uint8]:
    """The pictures of an answer, which must be one: ``uint8 [n, height, width, 3]``."""
    assert response.status_code == 200, response.text
    files = [base64.b64decode(one["b64_json"]) for one in response.json()["variations"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


async def until(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for what only other processes can bring about."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)
