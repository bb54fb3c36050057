"""A request inside the worker, from its arrival to its last picture."""

from dataclasses import dataclass, field

from app.engine.messages import Done, Picture, Submit, Timings
from app.parameters import Parameters
from app.pipeline import Sample


@dataclass(slots=True, eq=False)
class Work:
    """One request: what it asks for, its samples by index, its pictures so far, and its times.

    Times are readings of one clock in seconds, ``encode`` and ``decode`` lengths. ``pictures``
    holds ``None`` for a flagged one.
    """

    request_id: str
    parameters: Parameters
    arrived: float
    samples: dict[int, Sample] = field(default_factory=dict)
    pictures: dict[int, Picture | None] = field(default_factory=dict)
    encode: float = 0.0
    first_step: float = 0.0
    last_step: float = 0.0
    decode: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, submit: Submit, arrived: float) -> "Work":
        """A request that has just arrived."""
        return cls(submit.request_id, submit.parameters, arrived)

    @property
    def complete(self) -> bool:
        """Every picture is there."""
        return len(self.pictures) == self.parameters.n

    @property
    def schedule(self) -> tuple[str, int]:
        """Scheduler and number of steps."""
        return self.parameters.scheduler, self.parameters.num_inference_steps

    def count_step(self, started: float, ended: float) -> None:
        """Some of its samples took part in a step."""
        if self.steps == 0:
            self.first_step = started
        self.steps += 1
        self.last_step = ended

    def keep(self, index: int, picture: Picture | None) -> None:
        """A sample has become a picture; its tensors can go."""
        self.pictures[index] = picture
        del self.samples[index]

    def done(self) -> Done:
        """The answer, once complete."""
        pictures = tuple(self.pictures[index] for index in range(self.parameters.n))
        return Done(self.request_id, pictures, self._timings())

    def _timings(self) -> Timings:
        return Timings(
            queue=max(0.0, self.first_step - self.arrived - self.encode),
            encode=self.encode,
            denoise=self.last_step - self.first_step,
            decode=self.decode,
            steps=self.steps,
        )
