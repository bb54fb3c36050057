"""A batcher of steps as Xinference has one for FLUX: scheduler objects, one UNet call a step.

Its `FluxBatchScheduler` keeps the requests that run and those that wait. Before each step it lets
in, in the order of arrival, those whose pictures still fit; the model is called once for all of
them, each at its own timestep; then each request's own scheduler object moves its latents, and
what is finished is decoded request by request. The same is done here for this model, with guidance
as rows of the same call. (It is kinder to it in one thing: Xinference sleeps 10 ms before a step.)
"""

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import web
from benchmarks.peers.model import Answer, Model, Request, answer, batch, generators, load

# Pictures that run at once; `python -m benchmarks.peers.tune` tries others.
MOST_PICTURES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A request that waits, with its encoder's input."""

    request: Request
    pixels: Tensor
    answer: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop

    def tell(self, outcome: Answer | Exception) -> None:
        """Answer it, from any thread."""

        def tell() -> None:
            if self.answer.done():
                return  # its client has gone
            if isinstance(outcome, Exception):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)

        self.loop.call_soon_threadsafe(tell)


@dataclass(slots=True, eq=False)
class Running:
    """A request in its steps, of which ``done`` are over."""

    arrival: Arrival
    scheduler: Any
    embeddings: Tensor
    latents: Tensor
    done: int = 0

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.arrival.request

    @property
    def timestep(self) -> Tensor:
        """That of the next step."""
        timestep: Tensor = self.scheduler.timesteps[self.done]
        return timestep

    def input(self) -> Tensor:
        """The rows of the next step: each picture's latents, twice with guidance."""
        latents = torch.cat([self.latents] * 2) if is_guided(self.request) else self.latents
        rows: Tensor = self.scheduler.scale_model_input(latents, self.timestep)
        return rows

    def move(self, predicted: Tensor) -> None:
        """Take the step, by what the model said of the rows."""
        if is_guided(self.request):
            without, towards = predicted.chunk(2)
            predicted = without + self.request.guidance_scale * (towards - without)
        self.latents = self.scheduler.step(predicted, self.timestep, self.latents).prev_sample
        self.done += 1


def is_guided(request: Request) -> bool:
    """Whether every picture takes two rows."""
    return request.guidance_scale > 1


class StepBatcher:
    """A thread that steps all running requests, until the process ends."""

    def __init__(self, model: Model, most_pictures: int) -> None:
        self._model = model
        self._most_pictures = most_pictures
        self._arrived: SimpleQueue[Arrival] = SimpleQueue()
        self._waiting: list[Arrival] = []
        self._running: list[Running] = []
        threading.Thread(target=self._run, name="steps", daemon=True).start()

    async def variations(self, request: Request) -> Answer:
        """Answer a request."""
        pixels = await asyncio.to_thread(self._model.pixels, request)
        loop = asyncio.get_running_loop()
        arrival = Arrival(request, pixels, loop.create_future(), loop)
        self._arrived.put(arrival)
        return await arrival.answer

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with suppress(Empty):
                while True:
                    idle = not (self._waiting or self._running)
                    self._waiting.append(self._arrived.get(block=idle))
            try:
                self._turn()
            except Exception as error:  # as Xinference does: all that ran hear of it
                for one in self._running:
                    one.arrival.tell(error)
                self._running.clear()

    def _turn(self) -> None:
        """Let in who fits, take a step, answer who is done."""
        while self._waiting and self._fits(self._waiting[0].request):
            self._running.append(self._begin(self._waiting.pop(0)))
        self._step(self._running)
        finished = [one for one in self._running if one.done == len(one.scheduler.timesteps)]
        self._running = [one for one in self._running if one not in finished]
        for one in finished:
            self._finish(one)

    def _fits(self, request: Request) -> bool:
        pictures = sum(one.request.n for one in self._running)
        return not self._running or pictures + request.n <= self._most_pictures

    def _begin(self, arrival: Arrival) -> Running:
        pipeline, request = self._model.pipeline, arrival.request
        # Each request has a scheduler object of its own: they hold state.
        scheduler = self._model.scheduler(request)
        scheduler.set_timesteps(request.num_inference_steps)
        guided = is_guided(request)
        embeddings = pipeline._encode_image(arrival.pixels, "cpu", request.n, guided)
        side = pipeline.unet.config.sample_size
        shape = (1, pipeline.unet.config.in_channels, side, side)
        noise = [torch.randn(shape, generator=generator) for generator in generators(request)]
        return Running(
            arrival, scheduler, embeddings, torch.cat(noise) * scheduler.init_noise_sigma
        )

    def _step(self, running: list[Running]) -> None:
        inputs = [one.input() for one in running]
        sizes = [len(rows) for rows in inputs]
        timesteps = [one.timestep.expand(size) for one, size in zip(running, sizes, strict=True)]
        predicted = self._model.pipeline.unet(
            torch.cat(inputs),
            torch.cat(timesteps),
            encoder_hidden_states=torch.cat([one.embeddings for one in running]),
        ).sample
        for one, rows in zip(running, predicted.split(sizes), strict=True):
            one.move(rows)

    def _finish(self, one: Running) -> None:
        pipeline, arrival = self._model.pipeline, one.arrival
        images = pipeline.vae.decode(one.latents / pipeline.vae.config.scaling_factor).sample
        images, flags = pipeline.run_safety_checker(images, "cpu", images.dtype)
        pictures = pipeline.image_processor.postprocess(images, do_denormalize=[True] * len(flags))
        arrival.tell(answer(arrival.request, list(zip(pictures, flags, strict=True))))


if __name__ == "__main__":
    web.serve(StepBatcher(load(), batch(MOST_PICTURES)).variations)
