"""Every Prometheus object of the service, in groups over one injected registry.

Names carry the prefix ``variations_`` and base units. Label values come from short fixed lists:
nothing a caller sends becomes a label.
"""

from collections.abc import Iterator
from platform import python_version
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Info, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.registry import Collector

from app import __version__, logs
from app.metrics.engine import EngineMetrics
from app.metrics.http import DecoderMetrics, HttpMetrics
from app.metrics.stored import StoreMetrics

MOST_RENDERINGS = 20
"""Of all metrics in a second. Each takes some milliseconds, in which nobody else is answered."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, unused


class Metrics:
    """All groups over one registry: ``http``, ``decoders``, ``stored`` and ``engine``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        build = Info("variations_build", "The version that runs.", registry=registry)
        build.info({"version": __version__, "python": python_version()})
        registry.register(_LogLines())
        pictures = Counter(
            "variations_pictures_total",
            "Pictures by outcome. A refused request counts as one picture without scheduler and "
            "size: its form was not read.",
            ["outcome", "scheduler", "size"],
            registry=registry,
        )
        self.http = HttpMetrics(registry, pictures)
        self.decoders = DecoderMetrics(registry)
        self.stored = StoreMetrics(registry)
        self.engine = EngineMetrics(registry, pictures)
        self._last = (b"", "")
        self._second, self._renderings = 0, 0

    def render(self, accept: str) -> tuple[bytes, str]:
        """All numbers as the header ``Accept`` asks for them, and the media type of that.

        They are rendered :data:`MOST_RENDERINGS` times a second at most; whoever asks more often
        gets the last ones.
        """
        try:
            encoder, media_type = choose_encoder(accept)
        except (ValueError, TypeError):  # it names a version that is none
            encoder, media_type = choose_encoder("")
        if (second := int(monotonic())) != self._second:
            self._second, self._renderings = second, 0
        if self._renderings < MOST_RENDERINGS:
            self._renderings += 1
            self._last = encoder(self.registry), media_type
        return self._last


class _LogLines(Collector):
    """The count of dropped log lines, which are the process's and not one service's."""

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "variations_log_lines_dropped_total",
            "Lines that could not be logged, since what they are written to was full or closed.",
            value=logs.dropped(),
        )
