"""Predictions: the forecast of the queue, kept while making it anew would cost too much."""

import math
from collections.abc import Callable
from time import monotonic

from app.engine.mirror import Mirror
from app.parameters import Parameters
from app.scheduling.batcher import due_at
from app.scheduling.forecast import Forecast, Span

MARGIN = 2.0
"""Times what a request takes alone that it may delay those whom it overtakes."""

KEPT = 20
"""A forecast is kept for so many times what it took to make: that is 5 % of the time at most."""


class Predictions:
    """The mirror's forecast in seconds from now, also where it was made a little earlier.

    The worker reports every step, and each report changes the forecast a little. It is made anew
    only now and then, and meanwhile the time that has passed is taken off.
    """

    def __init__(self, mirror: Mirror, clock: Callable[[], float] = monotonic) -> None:
        self._mirror = mirror
        self._clock = clock
        self._forecast: Forecast | None = None
        self._made = self._until = 0.0

    def finishes(self, *, running: bool) -> dict[str, float]:
        """Seconds until each generation is finished, by its id; ``running``: there is a worker."""
        forecast, passed = self._look(running)
        return {name: max(0.0, span.finished - passed) for name, span in forecast.spans.items()}

    def of(self, request_id: str, *, running: bool) -> Span:
        """The span of a generation."""
        forecast, passed = self._look(running)
        return _earlier(forecast.spans[request_id], passed)

    def further(self, parameters: Parameters, due: float, *, running: bool) -> Span:
        """The span of a further request: what has passed can only have shortened its wait."""
        forecast, passed = self._look(running)
        span = forecast.further(parameters, due)
        wait = max(0.0, span.started - self._mirror.costs.encoding(parameters))
        return _earlier(span, min(passed, wait))

    def due(self, parameters: Parameters, later: float, *, running: bool) -> float:
        """The place in the line of a request that comes now; the worker goes on ``later`` seconds.

        It overtakes whom it may by the batcher's rule, but nobody whom that would make late.
        """
        due = due_at(self._mirror.work_done, parameters)
        overtaken = [one for one in self._mirror if one.due > due and one.deadline < math.inf]
        if not overtaken:
            return due
        finishes, now = self.finishes(running=running), self._clock() + later
        delay = MARGIN * self._mirror.fastest(parameters)
        late = (
            one.due for one in overtaken if now + finishes[one.request_id] + delay > one.deadline
        )
        return max(late, default=due)

    def _look(self, running: bool) -> tuple[Forecast, float]:
        """The forecast, and the seconds that the worker has worked since."""
        now = self._clock()
        passed = now - self._made if running else 0.0
        busy = self._forecast is not None and bool(self._forecast.spans)
        forecast = self._mirror.forecast(of_late=busy and now < self._until)
        if forecast is not self._forecast:
            self._forecast, self._made, passed = forecast, now, 0.0
            self._until = now + KEPT * (self._clock() - now)
        return forecast, passed


def _earlier(span: Span, seconds: float) -> Span:
    return Span(max(0.0, span.started - seconds), max(0.0, span.finished - seconds))
