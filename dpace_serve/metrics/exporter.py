"""Counts requests that have ended: as series on /metrics, and the same sums as JSON."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.arm import Arm
from dpace_serve.acceptance.decode_step import DecodeStep
from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.step_times import StepTimes
from dpace_serve.metrics import names
from dpace_serve.metrics.decode_speed import DecodeSpeed
from dpace_serve.metrics.drafters import KeptDrafters, LoadedDrafter
from dpace_serve.metrics.history import SumsHistory
from dpace_serve.metrics.labels import (
    DRAFTER_OPERATIONS,
    EXPORT_STAGES,
    OPERATION_RESULTS,
    SPLIT_ARMS,
    DrafterOperation,
    ExportStage,
    OperationResult,
)
from dpace_serve.metrics.series import LabelledCount, MetricCollectors
from dpace_serve.metrics.sums import AcceptanceSums
from dpace_serve.serve_config import OTHER_WORKLOAD

SNAPSHOT_CONFIDENCE = 0.95
"""Coverage of the intervals in the snapshot."""


class AcceptanceMetrics:
    """Everything that is exported about the drafters of one server, which may come and go.

    Series of a drafter exist from the moment it is added with 0, so that `increase()` sees their
    first event; all others from the start. A record is counted in all its series or in none. Calls
    belong on one thread, the server's event loop; only `export_error` may come from any. The sums
    are this process's own: several API processes each have theirs.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        workloads: Sequence[str],
        num_draft_tokens: int,
        method: str,
        step_times: StepTimes | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Create every series that belongs to no drafter.

        Args:
            registry: Where the series are registered.
            workloads: Workload labels that requests may carry; `other` is always one more.
            num_draft_tokens: Draft positions that the engine uses.
            method: The engine's name of the speculation method.
            step_times: Calibrated times of the engine's steps; none leaves the speed-up unknown.
            now: The time, in seconds since 1970.

        Raises:
            ValueError: If `num_draft_tokens` is below 1, or the registry already has these metrics.
        """
        if num_draft_tokens < 1:
            raise ValueError(
                f"metrics need at least 1 draft token, got {num_draft_tokens}. "
                "Export only while something is drafted."
            )
        self._num_draft_tokens = num_draft_tokens
        collectors = MetricCollectors(
            registry,
            num_draft_tokens=num_draft_tokens,
            is_calibrated=step_times is not None,
        )
        counters = collectors.counters
        self._drafters = KeptDrafters(
            collectors,
            workloads=tuple(dict.fromkeys((*workloads, OTHER_WORKLOAD))),
            num_draft_tokens=num_draft_tokens,
            method=method,
        )
        # Of all drafters there ever were, while series go with theirs.
        self._excluded = dict.fromkeys(EXCLUSION_REASONS, 0)
        self._operations = LabelledCount(
            counters[names.DRAFTER_SWAPS], DRAFTER_OPERATIONS, OPERATION_RESULTS
        )
        self._export_errors = LabelledCount(counters[names.EXPORT_ERRORS], EXPORT_STAGES)
        self._unknown_workloads = 0
        self._unknown_workload_series = counters[names.WORKLOAD_UNKNOWN]
        self._split_share = collectors.gauges[names.SPLIT_SHARE]
        self._split_requests = LabelledCount(counters[names.SPLIT_REQUESTS], SPLIT_ARMS)
        self.set_split_share(challengers=0)
        self._speed = DecodeSpeed(counters, step_times, now)
        self._history = SumsHistory(self._totals, now)

    def add_drafter(self, name: str, revision: str, block_size: int, arms: Iterable[Arm]) -> None:
        """Create the series of a drafter in these arms, at 0; those that exist stay as they are.

        At most `drafters.MAX_DRAFTERS` are kept, unless more are loaded or held: the series and
        sums of the one that was loaded longest ago are removed, and records of it are refused.

        Args:
            name: Name of the drafter.
            revision: Revision of its checkpoint.
            block_size: Block size that it was trained with.
            arms: What it may do for requests.

        Raises:
            ValueError: If no arm is given, one is unknown, or the drafter is known with another
                block size.
        """
        self._drafters.add(name, revision, block_size, arms)

    def set_loaded(self, rows: Iterable[LoadedDrafter]) -> None:
        """Say which drafters get requests from now on, and in which arm.

        `dpace_drafter_info` is 1 for exactly these. Counters of the others stay as they are.

        Raises:
            ValueError: If a drafter was not added in that arm and block size; nothing changes.
        """
        self._drafters.set_loaded(rows)

    def hold(self, drafters: Iterable[tuple[str, str]]) -> None:
        """Say which drafters, by name and revision, keep their series whatever else is added.

        Those are the ones whose requests may still run.
        """
        self._drafters.hold(drafters)

    def set_split_share(self, *, challengers: float) -> None:
        """Say which share of requests the challengers together are configured to serve.

        Args:
            challengers: Share in [0, 1); the champion has the rest, which is all at the start.

        Raises:
            ValueError: If it is outside.
        """
        if not 0 <= challengers < 1:
            raise ValueError(
                f"the challengers' share must lie in [0, 1), got {challengers}. "
                "Leave some requests to the champion."
            )
        self._split_share.labels("champion").set(1 - challengers)
        self._split_share.labels("challenger").set(challengers)

    def count_split(self, arm: Arm) -> None:
        """Count a request that ended, by the arm that was drawn for it.

        Raises:
            ValueError: If the arm serves no requests.
        """
        self._split_requests.add(arm)

    def observe(self, record: RequestAcceptance) -> None:
        """Count a record, in all series or, where it does not fit, in none.

        Raises:
            ValueError: If it names a drafter, arm or workload that has no series, is excluded, has
                no step, or drafted more than `num_draft_tokens`.
        """
        if record.excluded is not None or not record.steps:
            raise ValueError(
                "a counted request is not excluded and has at least 1 verification step, got "
                f"{record.excluded} and {record.steps}. Exclude it, without a step as no_step."
            )
        added = AcceptanceSums.from_request(record, self._num_draft_tokens)
        self._drafters.count(record, added)
        # From here on nothing can fail: whatever does not fit was refused above.
        if record.arm == "shadow":
            is_open = record.unsettled_drafted > 0
            self._drafters.count_shadow(record, "answer_ended" if is_open else "settled")
        self._history.note()

    def observe_step(self, step: DecodeStep) -> None:
        """Count a timed step of the engine."""
        self._speed.observe(step)
        self._history.note()

    def exclude(self, record: RequestAcceptance) -> None:
        """Count a record that the statistics leave out.

        Raises:
            ValueError: If it is not excluded, or its drafter, arm or workload has no series.
        """
        reason = record.excluded
        if reason is None:
            raise ValueError("only a record that says why is excluded, got none. Observe it.")
        self._drafters.count_excluded(record, reason)
        if record.arm == "shadow":
            self._drafters.count_shadow(record, "lost" if reason == "no_shadow" else "excluded")
        self._excluded[reason] += 1

    def count_operation(self, operation: DrafterOperation, result: OperationResult) -> None:
        """Count an operation on drafters by how it ended.

        Raises:
            ValueError: If there is no such operation or result.
        """
        self._operations.add(operation, result)

    def export_error(self, stage: ExportStage, count: int = 1) -> None:
        """Count records that were lost in our own code; from any thread.

        Raises:
            ValueError: If there is no such stage.
        """
        self._export_errors.add(stage, count=count)

    def unknown_workload(self) -> None:
        """Count a request whose tag is outside the configured workloads."""
        self._unknown_workloads += 1
        self._unknown_workload_series.inc()

    def num_steps(self) -> Mapping[int, int]:
        """Timed steps so far, by batch size."""
        return self._speed.num_steps

    def snapshot(self) -> dict[str, Any]:
        """The sums behind /metrics as JSON: each drafter's arms, then their workloads.

        A row of `drafters` without the key `workload` is the total of its drafter and arm; drafters
        that are loaded come first. `excluded` counts records: a request in the shadow of which
        challengers drafted has one more for each. What is undefined, as tau before the first
        request, is null. The unit of the intervals is the request; bounds of the rates by position
        are cut to [0, 1], and null at a rate of 0 or 1. `speed` is that of the last minute, null
        while no step was timed in it; its break-even line is the champion's.
        """
        return {
            "num_draft_tokens": self._num_draft_tokens,
            "confidence": SNAPSHOT_CONFIDENCE,
            "drafters": self._drafters.rows(SNAPSHOT_CONFIDENCE),
            "excluded": dict(self._excluded),
            "unknown_workload": self._unknown_workloads,
            "export_errors": self._export_errors.by_last_label(),
            "speed": self._speed.to_dict(self._drafters.champion_counts()),
        }

    def history(self) -> dict[str, Any]:
        """The same sums every few seconds, without workloads, for JSON."""
        return self._history.to_dict()

    def _totals(self) -> dict[str, Any]:
        decode = self._speed.sums
        calibrated = decode.calibrated
        return {
            "arms": [
                {
                    "drafter": drafter,
                    "revision": revision,
                    "arm": arm,
                    "requests": total.moments.total.requests,
                    "steps": total.moments.total.steps,
                    "accepted": total.moments.total.accepted,
                }
                for (drafter, revision, arm), total in self._drafters.totals().items()
            ],
            "decode_seconds": decode.seconds,
            "calibrated_decode_seconds": None if calibrated is None else calibrated.seconds,
            "plain_decode_seconds": None if calibrated is None else calibrated.plain_seconds,
            "decode_tokens": decode.tokens,
        }
