"""The Prometheus side of the metrics: collectors made from their specifications."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

from dpace_serve.metrics import names
from dpace_serve.metrics.names import MetricSpec
from dpace_serve.metrics.sums import AcceptanceSums


class MetricCollectors:
    """One collector for each metric of `names`, registered together.

    `_created` samples are filtered out of our own collectors, because prometheus_client's switch
    for them is for the whole process and would change the engine's metrics too.
    """

    def __init__(self, registry: CollectorRegistry, *, num_draft_tokens: int) -> None:
        """Register all metrics.

        Args:
            registry: Where they are registered.
            num_draft_tokens: Draft positions; buckets of tau run from 1 to one more.

        Raises:
            ValueError: If the registry already has one of them.
        """
        self.counters: dict[MetricSpec, Counter] = {}
        self.gauges: dict[MetricSpec, Gauge] = {}
        self.histograms: dict[MetricSpec, Histogram] = {}
        for spec in names.METRICS:
            if spec.type == "counter":
                self.counters[spec] = _Counter(spec.name, spec.help, spec.labels, registry=registry)
            elif spec.type == "gauge":
                self.gauges[spec] = Gauge(spec.name, spec.help, spec.labels, registry=registry)
            else:
                self.histograms[spec] = _Histogram(
                    spec.name,
                    spec.help,
                    spec.labels,
                    registry=registry,
                    buckets=range(1, num_draft_tokens + 2),
                )


class DrafterSeries:
    """All series of one drafter, arm and workload; they exist from the start with 0."""

    def __init__(
        self, collectors: MetricCollectors, labels: Sequence[str], *, num_draft_tokens: int
    ) -> None:
        """Create the series.

        Args:
            collectors: The registered metrics.
            labels: Values of `names.DRAFTER_LABELS`, in that order.
            num_draft_tokens: Draft positions.
        """
        counters = collectors.counters
        self._per_position = {
            spec: [
                counters[spec].labels(*labels, position)
                for position in range(1, num_draft_tokens + 1)
            ]
            for spec in (names.DRAFTED_TOKENS, names.ACCEPTED_TOKENS)
        }
        self._unsettled = {
            kind: counters[names.UNSETTLED_TOKENS].labels(*labels, kind)
            for kind in names.UNSETTLED_KINDS
        }
        self._plain = {
            spec: counter.labels(*labels)
            for spec, counter in counters.items()
            if spec.labels == names.DRAFTER_LABELS
        }
        self._tau = collectors.histograms[names.REQUEST_TAU].labels(*labels)

    def add(self, request: AcceptanceSums) -> None:
        """Count the sums of one finished request, which has at least one step."""
        counts, moments = request.counts, request.moments
        for spec, values in (
            (names.DRAFTED_TOKENS, counts.drafted),
            (names.ACCEPTED_TOKENS, counts.accepted),
        ):
            for series, value in zip(self._per_position[spec], values, strict=True):
                series.inc(value)
        self._unsettled["drafted"].inc(request.unsettled_drafted)
        self._unsettled["accepted"].inc(request.unsettled_accepted)
        for spec, value in {
            names.VERIFICATION_STEPS: counts.steps,
            names.EMITTED_TOKENS: counts.emitted,
            names.ACCEPTANCE_REQUESTS: moments.requests,
            names.ACCEPTANCE_ACCEPTED: moments.accepted,
            names.ACCEPTANCE_STEPS: moments.steps,
            names.ACCEPTANCE_ACCEPTED_SQUARED: moments.accepted_squared,
            names.ACCEPTANCE_STEPS_SQUARED: moments.steps_squared,
            names.ACCEPTANCE_ACCEPTED_STEPS: moments.accepted_steps,
        }.items():
            self._plain[spec].inc(value)
        self._tau.observe(moments.tau)


class LabelledCount:
    """A counter over a closed set of values of one label, with the counts at hand."""

    def __init__(self, counter: Counter, values: Sequence[str]) -> None:
        """Create one series for each value at 0."""
        self.counts = dict.fromkeys(values, 0)
        self._series = {value: counter.labels(value) for value in values}

    def add(self, value: str) -> None:
        """Count one event.

        Raises:
            ValueError: If the value is outside the set.
        """
        if value not in self.counts:
            raise ValueError(f"the label must be one of {', '.join(self.counts)}, got {value}.")
        self.counts[value] += 1
        self._series[value].inc()


class _Counter(Counter):
    def collect(self) -> Iterable[Metric]:
        return _without_created(super().collect())


class _Histogram(Histogram):
    def collect(self) -> Iterable[Metric]:
        return _without_created(super().collect())


def _without_created(metrics: Iterable[Metric]) -> list[Metric]:
    kept = list(metrics)
    for metric in kept:
        metric.samples = [
            sample for sample in metric.samples if not sample.name.endswith("_created")
        ]
    return kept
