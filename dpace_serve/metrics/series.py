"""The Prometheus side of the metrics: collectors made from their specifications."""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.metrics import names
from dpace_serve.metrics.labels import UNSETTLED_KINDS
from dpace_serve.metrics.names import MetricSpec
from dpace_serve.metrics.sums import AcceptanceSums

CollectorT = TypeVar("CollectorT", Counter, Histogram)

_POSITION_SUMS: dict[MetricSpec, Callable[[AcceptanceMoments], int]] = {
    names.POSITION_REQUESTS: attrgetter("requests"),
    names.POSITION_ACCEPTED_SQUARED: attrgetter("accepted_squared"),
    names.POSITION_DRAFTED_SQUARED: attrgetter("steps_squared"),
    names.POSITION_ACCEPTED_DRAFTED: attrgetter("accepted_steps"),
}


class MetricCollectors:
    """One collector for each of `names.EVENT_METRICS` that can have a value, registered together.

    `_created` samples are filtered out of our own collectors, because prometheus_client's switch
    for them is for the whole process and would change the engine's metrics too.
    """

    def __init__(
        self, registry: CollectorRegistry, *, num_draft_tokens: int, is_calibrated: bool
    ) -> None:
        """Register all metrics.

        Args:
            registry: Where they are registered.
            num_draft_tokens: Draft positions; buckets of tau run from 1 to one more.
            is_calibrated: Whether step times were calibrated; a 0 would be read as no speed.

        Raises:
            ValueError: If the registry already has one of them.
        """
        self.counters: dict[MetricSpec, Counter] = {}
        self.gauges: dict[MetricSpec, Gauge] = {}
        self.histograms: dict[MetricSpec, Histogram] = {}
        left_out = () if is_calibrated else names.CALIBRATED_METRICS
        for spec in names.EVENT_METRICS:
            if spec in left_out:
                continue
            if spec.type == "counter":
                self.counters[spec] = PlainCounter(
                    spec.name, spec.help, spec.labels, registry=registry
                )
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
    """All series of one drafter, arm and workload, from 0, and the sums behind them.

    Attributes:
        sums: What has been counted.
    """

    def __init__(
        self, collectors: MetricCollectors, labels: Sequence[str], *, num_draft_tokens: int
    ) -> None:
        """Create the series.

        Args:
            collectors: The registered metrics.
            labels: Values of `names.DRAFTER_LABELS`, in that order.
            num_draft_tokens: Draft positions.
        """
        self.sums = AcceptanceSums.zero(num_draft_tokens)
        self._labels = tuple(labels)
        self._created: list[tuple[Counter | Histogram, tuple[object, ...]]] = []
        counters = collectors.counters
        self._per_position = {
            spec: [
                self._create(counters[spec], position)
                for position in range(1, num_draft_tokens + 1)
            ]
            for spec in (names.DRAFTED_TOKENS, names.ACCEPTED_TOKENS)
        }
        self._unsettled = {
            kind: self._create(counters[names.UNSETTLED_TOKENS], kind) for kind in UNSETTLED_KINDS
        }
        self._plain = {
            spec: self._create(counter)
            for spec, counter in counters.items()
            if spec.labels == names.DRAFTER_LABELS
        }
        self._tau = self._create(collectors.histograms[names.REQUEST_TAU])

    def add(self, request: AcceptanceSums) -> None:
        """Count the sums of one finished request, which has at least one step."""
        self.sums += request
        counts, moments = request.counts, request.moments.total
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

    def remove(self) -> None:
        """Take the series off the metrics page."""
        for collector, labels in self._created:
            collector.remove(*labels)

    def _create(self, collector: CollectorT, *more: object) -> CollectorT:
        labels = (*self._labels, *more)
        self._created.append((collector, labels))
        return collector.labels(*labels)


class PositionSeries:
    """Sums over requests by draft position of one drafter and arm, over all workloads, from 0."""

    def __init__(
        self, collectors: MetricCollectors, labels: Sequence[str], *, num_draft_tokens: int
    ) -> None:
        """Create the series.

        Args:
            collectors: The registered metrics.
            labels: Drafter, revision and arm.
            num_draft_tokens: Draft positions.
        """
        self._labels = tuple(labels)
        self._counters = {
            collectors.counters[spec]: sum_of for spec, sum_of in _POSITION_SUMS.items()
        }
        self._series = [
            [
                (counter.labels(*self._labels, position), sum_of)
                for counter, sum_of in self._counters.items()
            ]
            for position in range(1, num_draft_tokens + 1)
        ]

    def add(self, positions: Sequence[AcceptanceMoments]) -> None:
        """Count the sums of a finished request at each position, from position 1."""
        for series, moments in zip(self._series, positions, strict=True):
            for counter, sum_of in series:
                counter.inc(sum_of(moments))

    def remove(self) -> None:
        """Take the series off the metrics page."""
        for counter in self._counters:
            for position in range(1, len(self._series) + 1):
                counter.remove(*self._labels, position)


class LabelledCount:
    """A counter over closed sets of label values, with the counts at hand; safe between threads."""

    def __init__(self, counter: Counter, *choices: Sequence[str]) -> None:
        """Create one series at 0 for each combination.

        Args:
            counter: The registered metric.
            choices: Values of each of its labels, in their order.
        """
        self._choices = choices
        self._counter = counter
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(itertools.product(*choices), 0)
        for labels in self._counts:
            counter.labels(*labels)

    def add(self, *labels: str, count: int = 1) -> None:
        """Count events.

        Raises:
            ValueError: If a label is outside its set.
        """
        for label, choices in zip(labels, self._choices, strict=True):
            if label not in choices:
                raise ValueError(f"the label must be one of {', '.join(choices)}, got {label}.")
        with self._lock:
            self._counts[labels] += count
        self._counter.labels(*labels).inc(count)

    def by_last_label(self) -> dict[str, int]:
        """Counts for each value of the last label, summed over the others."""
        totals = dict.fromkeys(self._choices[-1], 0)
        with self._lock:
            for labels, count in self._counts.items():
                totals[labels[-1]] += count
        return totals

    def remove(self) -> None:
        """Take the series off the metrics page."""
        for labels in self._counts:
            self._counter.remove(*labels)


class PlainCounter(Counter):
    """A counter without the time of its creation, which would be one more series for each."""

    def collect(self) -> Iterable[Metric]:
        """Its samples."""
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
