"""A request inside the worker, from its arrival to its last picture."""

from dataclasses import dataclass, field
from time import perf_counter

from app.ipc.messages import Done, Stage, StageName, Submit
from app.parameters import Parameters
from app.pictures import Picture
from app.pipeline import Sample


@dataclass(slots=True, eq=False)
class Work:
    """One request: what it asks for, its samples by index, its pictures so far, and its stages.

    ``waiting_since`` is when it last had nothing to do but wait. ``pictures`` holds ``None`` for a
    flagged one.
    """

    request_id: str
    parameters: Parameters
    waiting_since: float
    samples: dict[int, Sample] = field(default_factory=dict)
    pictures: dict[int, Picture | None] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    first_step: float = 0.0
    last_step: float = 0.0
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

    def encoded(self, began: float) -> None:
        """Its picture became an embedding from then until now."""
        self.note("queue", self.waiting_since, began)
        self.waiting_since = perf_counter()
        self.note("encode", began, self.waiting_since)

    def note(self, stage: StageName, began: float, ended: float) -> None:
        """It was in a stage."""
        self.stages.append(Stage(stage, began, ended))

    def count_step(self, started: float, ended: float) -> None:
        """Some of its samples took part in a step."""
        if self.steps == 0:
            self.first_step = started
            self.note("queue", self.waiting_since, started)
        self.steps += 1
        self.last_step = ended

    def keep(self, index: int, picture: Picture | None) -> None:
        """A sample has become a picture; its tensors can go."""
        self.pictures[index] = picture
        del self.samples[index]

    def done(self) -> Done:
        """The answer, once complete."""
        self.note("denoise", self.first_step, self.last_step)
        pictures = tuple(self.pictures[index] for index in range(self.parameters.n))
        return Done(self.request_id, pictures, tuple(self.stages), self.steps)
