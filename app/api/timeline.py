"""The stages of a request's time, gathered from its acceptance to its answer."""

import time
from dataclasses import dataclass, field
from typing import get_args

from app.ipc.messages import Stage, StageName


@dataclass(frozen=True, slots=True)
class Timeline:
    """The stages that a request was in. All times are readings of ``perf_counter``."""

    accepted: float = field(default_factory=time.perf_counter)
    stages: list[Stage] = field(default_factory=list)

    def passed(self, stage: StageName, since: float) -> float:
        """The request was in a stage from ``since`` until now, which is returned."""
        now = time.perf_counter()
        self.stages.append(Stage(stage, since, now))
        return now

    def seconds(self) -> dict[StageName, float]:
        """Seconds of each stage so far; no stage is left out."""
        seconds: dict[StageName, float] = dict.fromkeys(get_args(StageName), 0.0)
        for stage in self.stages:
            seconds[stage.name] += stage.ended - stage.began
        return seconds

    def total(self) -> float:
        """Seconds since the acceptance."""
        return time.perf_counter() - self.accepted
