"""Predictions: the forecast of the queue, kept while making it anew would cost too much."""

from collections.abc import Callable
from time import monotonic

from app.engine.mirror import Mirror
from app.parameters import Parameters
from app.scheduling.forecast import Forecast, Span

KEPT = 20
"""A forecast is kept for so many times what it took to make: that is 5 % of the time at most."""


class Predictions:
    """The mirror's forecast in seconds from now, also where it was made a little earlier.

    The worker reports every step, and each report changes the forecast a little. It is made anew
    only now and then, and meanwhile the time that has passed is taken off. Where a newcomer would
    not have to wait it is always made anew: that costs little, and there would be nothing to take
    the time off.
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

    def behind(self, parameters: Parameters, *, running: bool) -> Span:
        """The span of a further request, which it is not shortened by more than its wait."""
        forecast, passed = self._look(running)
        return _earlier(forecast.behind(parameters), min(passed, forecast.wait))

    def _look(self, running: bool) -> tuple[Forecast, float]:
        """The forecast, and the seconds that the worker has worked since."""
        now = self._clock()
        passed = now - self._made if running else 0.0
        known = self._forecast
        of_late = known is not None and now < self._until and passed < known.wait
        forecast = self._mirror.forecast(of_late=of_late)
        if forecast is not known:
            self._forecast, self._made, passed = forecast, now, 0.0
            self._until = now + KEPT * (self._clock() - now)
        return forecast, passed


def _earlier(span: Span, seconds: float) -> Span:
    return Span(max(0.0, span.started - seconds), max(0.0, span.finished - seconds))
