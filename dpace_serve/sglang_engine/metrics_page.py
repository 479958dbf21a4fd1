"""/metrics: SGLang's own metrics, gathered from all of its processes, and ours."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

OWN_PREFIX = "dpace_"


class _AllMetrics(Collector):
    """What SGLang's processes have written down, and ours from this process alone.

    What this process wrote down of ours is left out: in that form gauges have the number of a
    process as a label, and drafters that are gone never leave.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        self._processes: Collector = MultiProcessCollector(None)  # type: ignore[no-untyped-call]  # has no types
        self._own = own

    def collect(self) -> Iterable[Metric]:
        """All of them, SGLang's first."""
        for metric in self._processes.collect():
            if not metric.name.startswith(OWN_PREFIX):
                yield metric
        yield from self._own.collect()


def metrics_page(own: CollectorRegistry) -> ASGIApp:
    """An application that answers with all metrics.

    Args:
        own: Ours.

    Raises:
        ValueError: If SGLang has no folder for the metrics of its processes.
    """
    registry = CollectorRegistry()
    registry.register(_AllMetrics(own))
    page: ASGIApp = make_asgi_app(registry=registry)
    return page
