"""Counts finished requests: as series on /metrics, and the same sums as JSON."""

import itertools
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics import names
from dpace_serve.metrics.names import ExclusionReason, ExportStage
from dpace_serve.metrics.series import DrafterSeries, LabelledCount, MetricCollectors
from dpace_serve.metrics.sums import AcceptanceSums

SNAPSHOT_CONFIDENCE = 0.95
"""Coverage of the intervals in the snapshot."""


class AcceptanceMetrics:
    """Everything that is exported about one loaded drafter.

    All series exist from the start with 0, so that `increase()` sees their first event. An
    observation is counted in all series or in none. Calls belong on one thread, the server's event
    loop. The sums are this process's own: several API processes each have theirs.
    """

    def __init__(  # noqa: PLR0913 - one keyword per label: a bundle would only rename them
        self,
        registry: CollectorRegistry,
        *,
        drafter: str,
        revision: str,
        arms: Sequence[str],
        workloads: Sequence[str],
        num_draft_tokens: int,
        method: str,
        block_size: int,
    ) -> None:
        """Create every series at 0.

        Args:
            registry: Where the series are registered.
            drafter: Name of the drafter.
            revision: Revision of its checkpoint.
            arms: Roles it serves in.
            workloads: Workload labels that requests may carry; `other` is always one more.
            num_draft_tokens: Draft positions that the engine uses.
            method: The engine's name of the speculation method.
            block_size: Block size that the drafter was trained with.

        Raises:
            ValueError: If no arm is given, `num_draft_tokens` is below 1, or the registry already
                has these metrics.
        """
        if not arms or num_draft_tokens < 1:
            raise ValueError(
                "metrics need at least 1 arm and 1 draft token, got "
                f"{len(arms)} and {num_draft_tokens}. Export only while a drafter is loaded."
            )
        self._drafter = drafter
        self._revision = revision
        self._arms = tuple(dict.fromkeys(arms))
        self._num_draft_tokens = num_draft_tokens
        collectors = MetricCollectors(registry, num_draft_tokens=num_draft_tokens)
        labels = dict.fromkeys((*workloads, names.OTHER_WORKLOAD))
        self._sums: dict[tuple[str, str], AcceptanceSums] = {}
        self._series: dict[tuple[str, str], DrafterSeries] = {}
        for arm, workload in itertools.product(self._arms, labels):
            self._sums[arm, workload] = AcceptanceSums.zero(num_draft_tokens)
            self._series[arm, workload] = DrafterSeries(
                collectors,
                (drafter, revision, arm, workload),
                num_draft_tokens=num_draft_tokens,
            )
        info = collectors.gauges[names.DRAFTER_INFO]
        for arm in self._arms:
            info.labels(drafter, revision, arm, method, block_size).set(1)
        self._excluded = LabelledCount(
            collectors.counters[names.REQUESTS_EXCLUDED], names.EXCLUSION_REASONS
        )
        self._export_errors = LabelledCount(
            collectors.counters[names.EXPORT_ERRORS], names.EXPORT_STAGES
        )
        self._unknown_workloads = 0
        self._unknown_workload_series = collectors.counters[names.WORKLOAD_UNKNOWN]

    def observe(self, request: RequestAcceptance) -> None:
        """Count one finished request, in all series or, where it does not fit, in none.

        Raises:
            ValueError: If the request names another drafter or revision, an arm or workload
                outside the set, has no step, or drafted more than `num_draft_tokens`.
        """
        if (request.drafter, request.revision) != (self._drafter, self._revision):
            raise ValueError(
                f"requests here belong to drafter {self._drafter} {self._revision}, got "
                f"{request.drafter} {request.revision}. Keep one exporter per loaded drafter."
            )
        key = (request.arm, request.workload)
        if key not in self._sums:
            raise ValueError(
                f"arm and workload must be configured, got {request.arm} and {request.workload}. "
                f"Count an unknown workload as {names.OTHER_WORKLOAD}."
            )
        if not request.steps:
            raise ValueError(
                "a counted request has at least 1 verification step, got 0. Exclude it as no_step."
            )
        added = AcceptanceSums.from_request(request, self._num_draft_tokens)
        # From here on nothing can fail: whatever does not fit was refused above.
        self._sums[key] += added
        self._series[key].add(added)

    def exclude(self, reason: ExclusionReason) -> None:
        """Count a finished request that the statistics leave out.

        Raises:
            ValueError: If there is no such reason.
        """
        self._excluded.add(reason)

    def export_error(self, stage: ExportStage) -> None:
        """Count a record that was lost in our own code.

        Raises:
            ValueError: If there is no such stage.
        """
        self._export_errors.add(stage)

    def unknown_workload(self) -> None:
        """Count a request whose tag is outside the configured workloads."""
        self._unknown_workloads += 1
        self._unknown_workload_series.inc()

    def snapshot(self) -> dict[str, Any]:
        """The sums behind /metrics as JSON: each arm's total, then each of its workloads.

        A row of `drafters` without the key `workload` is the total of its arm. What is undefined,
        as tau before the first request, is null. The unit of the intervals is the request.
        """
        return {
            "num_draft_tokens": self._num_draft_tokens,
            "confidence": SNAPSHOT_CONFIDENCE,
            "drafters": [row for arm in self._arms for row in self._rows(arm)],
            "excluded": dict(self._excluded.counts),
            "unknown_workload": self._unknown_workloads,
            "export_errors": dict(self._export_errors.counts),
        }

    def _rows(self, arm: str) -> list[dict[str, Any]]:
        head = {"drafter": self._drafter, "revision": self._revision, "arm": arm}
        total = AcceptanceSums.zero(self._num_draft_tokens)
        rows = []
        for (sums_arm, workload), sums in self._sums.items():
            if sums_arm == arm:
                total += sums
                rows.append({**head, "workload": workload, **sums.to_dict(SNAPSHOT_CONFIDENCE)})
        return [{**head, **total.to_dict(SNAPSHOT_CONFIDENCE)}, *rows]
