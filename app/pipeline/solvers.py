"""The solvers that a checkpoint can be asked for, and their tables, each built once."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from app.errors import CheckpointError, InvalidParameter
from app.parameters import MAX_STEPS, Scheduler
from app.pipeline.solver import SolverTable, TableBuilding, own_scheduler

logger = logging.getLogger(__name__)

_PROVEN_STEPS = 1, 2, 5, 20, MAX_STEPS
"""Step counts, beside the checkpoint's default, whose tables are built at load."""


MOST_TABLES = 2_000
"""Tables that are kept: of every solver and number of steps there is one from the first call on,
and one from each later call.
"""

_Key = tuple[Scheduler, int, int | None]
"""The solver, its number of steps, and the call that a table begins with where a picture is."""


class Solvers:
    """The solvers that a checkpoint's scheduler config allows, and their tables, each built once.

    ``offered`` are those that make the default number of steps. ``default`` is one of them:
    ``wished``, or the config's own, where that is offered.
    """

    def __init__(
        self, config: Mapping[str, Any], default_steps: int, wished: Scheduler | None = None
    ) -> None:
        """Build and prove tables of all solvers, in half a second; log what is not offered.

        Raises :class:`CheckpointError` where no solver makes the default number of steps.
        """
        self._config = config
        self._tables: dict[_Key, SolverTable] = {}
        self._building: dict[_Key, TableBuilding] = {}
        self._counts: dict[Scheduler, list[int]] = {}
        refused: dict[Scheduler, str] = {}
        for scheduler in Scheduler:
            try:
                self._table(scheduler, default_steps)
            except CheckpointError as error:
                refused[scheduler] = error.message
                logger.info("Not offered: %s", error.message)
            else:
                self._counts[scheduler] = self._proven(scheduler, default_steps)
        own = wished or own_scheduler(config)
        if not self._counts:
            raise CheckpointError(
                "no solver suits the checkpoint's scheduler config: "
                f"{refused[own or Scheduler.DDIM]}"
            )
        self.offered = tuple(self._counts)
        self.default = own if own in self._counts else self.offered[0]
        if self.default != own:
            logger.warning(
                "The checkpoint's own scheduler, %s, is not offered: %s. The default is %s",
                wished or config.get("_class_name") or "not named",
                refused[own] if own else "it is none of the deterministic solvers known here",
                self.default,
            )

    def _proven(self, scheduler: Scheduler, default_steps: int) -> list[int]:
        """Step counts, from few to many, that the solver is now known to make."""
        counts = []
        for steps in sorted({default_steps, *_PROVEN_STEPS}):
            try:
                self._table(scheduler, steps)
            except CheckpointError as error:
                logger.info("Not offered: %s", error.message)
            else:
                counts.append(steps)
        return counts

    def table(self, scheduler: Scheduler, steps: int, begin: int | None = None) -> SolverTable:
        """The table of an offered solver, from noise or from a picture at the call ``begin``.

        Raises :class:`InvalidParameter` where there is none with so many steps.
        """
        if scheduler not in self._counts:
            raise InvalidParameter(
                f"{scheduler.value} is not offered with this checkpoint", field="scheduler"
            )
        try:
            return self._table(scheduler, steps, begin)
        except CheckpointError as error:
            logger.warning("A request is refused: %s", error.message)
            counts = ", ".join(str(count) for count in self._counts[scheduler])
            raise InvalidParameter(
                f"With this checkpoint {scheduler.value} cannot make {steps} steps; "
                f"num_inference_steps can be {counts}, for example",
                field="num_inference_steps",
            ) from error

    def fewest_steps(self, least: int) -> int:
        """The smallest number of steps from ``least`` on that the default is known to make.

        The largest of all where it is smaller.
        """
        counts = self._counts[self.default]
        return next((count for count in counts if count >= least), counts[-1])

    def build(self, scheduler: Scheduler, steps: int, begin: int | None, seconds: float) -> bool:
        """Build a table for about so many seconds; False where more is needed.

        :meth:`table` says what is wrong where it cannot be built.
        """
        try:
            return self._build((scheduler, steps, begin), seconds) is not None
        except CheckpointError:
            return True

    def _table(self, scheduler: Scheduler, steps: int, begin: int | None = None) -> SolverTable:
        table = self._build((scheduler, steps, begin))
        assert table is not None  # noqa: S101  it had no end of time
        return table

    def _build(self, key: _Key, seconds: float = math.inf) -> SolverTable | None:
        if key in self._tables:
            return self._tables[key]
        scheduler, steps, begin = key
        building = self._building.pop(key, None)
        building = building or TableBuilding(scheduler, steps, self._config, begin)
        if table := building.go_on(seconds):
            self._tables[key] = table
            if len(self._tables) > MOST_TABLES:
                del self._tables[next(iter(self._tables))]
        else:
            self._building[key] = building
        return table
