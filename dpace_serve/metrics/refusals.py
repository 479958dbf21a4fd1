"""RefusalCount: requests that did not reach the engine, by the reason."""

from prometheus_client import CollectorRegistry

from dpace_serve.metrics import names
from dpace_serve.metrics.labels import REFUSAL_REASONS, RefusalReason
from dpace_serve.metrics.series import PlainCounter


class RefusalCount:
    """One series for each reason, from 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Create the series.

        Args:
            registry: Where they are registered.

        Raises:
            ValueError: If it already has them.
        """
        spec = names.REQUESTS_REFUSED
        counter = PlainCounter(spec.name, spec.help, spec.labels, registry=registry)
        self._series = {reason: counter.labels(reason) for reason in REFUSAL_REASONS}

    def __call__(self, reason: RefusalReason) -> None:
        """Count one."""
        self._series[reason].inc()
