"""The verdicts on the challengers as gauges, worked out when they are scraped."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from dpace_serve.acceptance.verdict import DECISIONS, Verdict, lift_dict
from dpace_serve.metrics import names
from dpace_serve.metrics.names import MetricSpec


class ChallengerVerdict(NamedTuple):
    """The verdict on one challenger, each of the two by name and revision."""

    champion: str
    champion_revision: str
    challenger: str
    revision: str
    verdict: Verdict


class VerdictMetrics:
    """Collector of `dpace_verdict_*`: a challenger that leaves takes its series with it."""

    def __init__(
        self, registry: CollectorRegistry, verdicts: Callable[[], Iterable[ChallengerVerdict]]
    ) -> None:
        """Register the gauges.

        Args:
            registry: Where they are registered.
            verdicts: The verdicts as they are now.

        Raises:
            ValueError: If the registry has them already.
        """
        self._verdicts = verdicts
        registry.register(self)

    def describe(self) -> list[GaugeMetricFamily]:
        """The gauges without a series: registering must not work a verdict out."""
        return [_family(names.VERDICT_LIFT), _family(names.VERDICT_DECISION)]

    def collect(self) -> list[GaugeMetricFamily]:
        """The gauges as they are now; the lift of a verdict without numbers has no series."""
        lift, decision = self.describe()
        for *rivals, verdict in self._verdicts():
            for known in DECISIONS:
                decision.add_metric([*rivals, known], float(verdict.decision == known))
            if verdict.best_lift is not None:
                for key, value in lift_dict(verdict.best_lift).items():
                    bound = "estimate" if key == "lift" else key
                    lift.add_metric([*rivals, bound], value)
        return [lift, decision]


def _family(spec: MetricSpec) -> GaugeMetricFamily:
    return GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
