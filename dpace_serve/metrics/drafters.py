"""The drafters that metrics are kept of: those that are loaded, and the latest that were."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dpace_serve.acceptance.arm import ARMS, Arm
from dpace_serve.acceptance.counts import AcceptanceCounts
from dpace_serve.acceptance.exclusion import EXCLUSION_REASONS, ExclusionReason
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics import names
from dpace_serve.metrics.labels import SHADOW_OUTCOMES, ShadowOutcome
from dpace_serve.metrics.series import (
    DrafterSeries,
    LabelledCount,
    MetricCollectors,
    PositionSeries,
)
from dpace_serve.metrics.sums import AcceptanceSums
from dpace_serve.serve_config import OTHER_WORKLOAD

MAX_DRAFTERS = 8
"""Drafters kept at most, unless more are loaded or held; the one that was loaded longest ago goes
first. Each has up to 1,052 lines on the metrics page: 3 arms, 9 workloads, 7 draft tokens."""


class LoadedDrafter(NamedTuple):
    """A drafter that gets requests now, in one arm."""

    name: str
    revision: str
    arm: Arm
    block_size: int


class KeptDrafters:
    """Series and sums of each drafter, by arm and workload; all series begin at 0."""

    def __init__(
        self,
        collectors: MetricCollectors,
        *,
        workloads: Sequence[str],
        num_draft_tokens: int,
        method: str,
    ) -> None:
        """Start without a drafter.

        Args:
            collectors: The registered metrics.
            workloads: All workload labels.
            num_draft_tokens: Draft positions.
            method: The engine's name of the speculation method.
        """
        self._collectors = collectors
        self._workloads = tuple(workloads)
        self._num_draft_tokens = num_draft_tokens
        self._method = method
        # In the order in which they were last loaded, the newest last.
        self._drafters: dict[tuple[str, str], _KeptDrafter] = {}
        self._loaded: tuple[LoadedDrafter, ...] = ()
        self._held: frozenset[tuple[str, str]] = frozenset()

    def add(self, name: str, revision: str, block_size: int, arms: Iterable[Arm]) -> None:
        """Create the series of a drafter in these arms; those that exist stay as they are.

        Raises:
            ValueError: If no arm is given, one is unknown, or the drafter is known with another
                block size.
        """
        wanted = tuple(arms)
        if not wanted or not set(wanted) <= set(ARMS):
            raise ValueError(f"a drafter has at least 1 arm of {', '.join(ARMS)}, got {wanted}.")
        key = (name, revision)
        if key in self._drafters:
            self._require_block_size(key, block_size)
        drafter = self._drafters.pop(key, None) or _KeptDrafter(key, block_size)
        self._drafters[key] = drafter
        for arm in wanted:
            if not drafter.has(arm):
                drafter.create(
                    arm,
                    self._collectors,
                    workloads=self._workloads,
                    num_draft_tokens=self._num_draft_tokens,
                )
        self._remove_oldest(keep=key)

    def set_loaded(self, rows: Iterable[LoadedDrafter]) -> None:
        """Say which drafters get requests, in which arm; all others do not.

        Raises:
            ValueError: If a drafter was not added in that arm and block size; nothing changes.
        """
        loaded = tuple(dict.fromkeys(rows))
        for row in loaded:
            key = (row.name, row.revision)
            self._series(*key, row.arm, OTHER_WORKLOAD)
            self._require_block_size(key, row.block_size)
        info = self._collectors.gauges[names.DRAFTER_INFO]
        for row in loaded:
            info.labels(*self._info_labels(row)).set(1)
        for row in self._loaded:
            if row not in loaded:
                info.remove(*self._info_labels(row))
        for row in (*self._loaded, *loaded):
            key = (row.name, row.revision)
            self._drafters[key] = self._drafters.pop(key)
        self._loaded = loaded

    def hold(self, drafters: Iterable[tuple[str, str]]) -> None:
        """Say which drafters, by name and revision, must not be removed: theirs may still come."""
        self._held = frozenset(drafters)

    def count(self, record: RequestAcceptance, sums: AcceptanceSums) -> None:
        """Count a finished request.

        Args:
            record: Says where.
            sums: Its sums, of at least one step.

        Raises:
            ValueError: If its drafter, arm or workload has no series; nothing is counted.
        """
        series = self._series_of(record)
        series.add(sums)
        drafter = self._drafters[record.drafter, record.revision]
        drafter.positions[record.arm].add(sums.moments.positions)

    def count_excluded(self, record: RequestAcceptance, reason: ExclusionReason) -> None:
        """Count a request that the statistics leave out.

        Raises:
            ValueError: If its drafter, arm or workload has no series; nothing is counted.
        """
        self._series_of(record)
        self._drafters[record.drafter, record.revision].excluded[record.arm].add(
            record.drafter, record.revision, record.arm, reason
        )

    def count_shadow(self, record: RequestAcceptance, outcome: ShadowOutcome) -> None:
        """Count what became of a challenger's drafts.

        Raises:
            ValueError: If its drafter has no series as a shadow.
        """
        self._series_of(record)
        self._drafters[record.drafter, record.revision].count_shadow(outcome)

    def rows(self, confidence: float) -> list[dict[str, Any]]:
        """Sums of each drafter and arm, then of its workloads; what is loaded comes first.

        Args:
            confidence: Coverage of the intervals, in (0, 1).
        """
        zero = AcceptanceSums.zero(self._num_draft_tokens)
        return [
            row for key in self._in_order() for row in self._drafters[key].rows(zero, confidence)
        ]

    def totals(self) -> dict[tuple[str, str, Arm], AcceptanceSums]:
        """Sums of each drafter, revision and arm over its workloads; what is loaded comes first."""
        zero = AcceptanceSums.zero(self._num_draft_tokens)
        return {
            (*key, arm): total
            for key in self._in_order()
            for arm, total in self._drafters[key].totals(zero).items()
        }

    def champion_counts(self) -> AcceptanceCounts:
        """Counts of the drafter that serves now, from the requests it served as the champion."""
        zero = AcceptanceSums.zero(self._num_draft_tokens)
        for row in self._loaded:
            if row.arm == "champion":
                return self._drafters[row.name, row.revision].totals(zero)[row.arm].counts
        return zero.counts

    def _in_order(self) -> list[tuple[str, str]]:
        """Those that are loaded, then the others, the last loaded first."""
        loaded = dict.fromkeys((row.name, row.revision) for row in self._loaded)
        return [*loaded, *(key for key in reversed(self._drafters) if key not in loaded)]

    def _series_of(self, record: RequestAcceptance) -> DrafterSeries:
        return self._series(record.drafter, record.revision, record.arm, record.workload)

    def _series(self, name: str, revision: str, arm: Arm, workload: str) -> DrafterSeries:
        drafter = self._drafters.get((name, revision))
        if drafter is None:
            raise ValueError(
                f"a counted drafter must have been added and not be one of the oldest, got {name} "
                f"{revision}. Call add_drafter before its requests."
            )
        series = drafter.series.get((arm, workload))
        if series is None:
            raise ValueError(
                f"arm and workload must be configured, got {arm} and {workload}. Add the arm with "
                f"add_drafter; count an unknown workload as {OTHER_WORKLOAD}."
            )
        return series

    def _require_block_size(self, key: tuple[str, str], block_size: int) -> None:
        known = self._drafters[key].block_size
        if block_size != known:
            raise ValueError(
                f"drafter {' '.join(key)} has block size {known}, got {block_size}. "
                "Give another checkpoint another revision."
            )

    def _info_labels(self, row: LoadedDrafter) -> tuple[object, ...]:
        return row.name, row.revision, row.arm, self._method, row.block_size

    def _remove_oldest(self, keep: tuple[str, str]) -> None:
        in_use = {keep, *self._held, *((row.name, row.revision) for row in self._loaded)}
        former = [key for key in self._drafters if key not in in_use]
        for key in former[: max(0, len(self._drafters) - MAX_DRAFTERS)]:
            self._drafters.pop(key).remove()


class _KeptDrafter:
    def __init__(self, key: tuple[str, str], block_size: int) -> None:
        self.block_size = block_size
        self.series: dict[tuple[Arm, str], DrafterSeries] = {}
        self.positions: dict[Arm, PositionSeries] = {}
        self.excluded: dict[Arm, LabelledCount] = {}
        self._key = key
        self._shadows: LabelledCount | None = None

    def has(self, arm: Arm) -> bool:
        return arm in self.positions

    def create(
        self,
        arm: Arm,
        collectors: MetricCollectors,
        *,
        workloads: Sequence[str],
        num_draft_tokens: int,
    ) -> None:
        for workload in workloads:
            self.series[arm, workload] = DrafterSeries(
                collectors, (*self._key, arm, workload), num_draft_tokens=num_draft_tokens
            )
        self.positions[arm] = PositionSeries(
            collectors, (*self._key, arm), num_draft_tokens=num_draft_tokens
        )
        name, revision = self._key
        self.excluded[arm] = LabelledCount(
            collectors.counters[names.REQUESTS_EXCLUDED],
            (name,),
            (revision,),
            (arm,),
            EXCLUSION_REASONS,
        )
        if arm == "shadow":
            self._shadows = LabelledCount(
                collectors.counters[names.SHADOW_REQUESTS],
                (name,),
                (revision,),
                SHADOW_OUTCOMES,
            )

    def count_shadow(self, outcome: ShadowOutcome) -> None:
        if self._shadows is not None:
            self._shadows.add(*self._key, outcome)

    def remove(self) -> None:
        for series in self.series.values():
            series.remove()
        for positions in self.positions.values():
            positions.remove()
        for excluded in self.excluded.values():
            excluded.remove()
        if self._shadows is not None:
            self._shadows.remove()

    def totals(self, zero: AcceptanceSums) -> dict[Arm, AcceptanceSums]:
        totals: dict[Arm, AcceptanceSums] = {}
        for (arm, _), series in self.series.items():
            totals[arm] = totals.get(arm, zero) + series.sums
        return totals

    def rows(self, zero: AcceptanceSums, confidence: float) -> list[dict[str, Any]]:
        rows = []
        for arm, total in self.totals(zero).items():
            head = {"drafter": self._key[0], "revision": self._key[1], "arm": arm}
            rows.append({**head, **total.to_dict(confidence)})
            rows += [
                {**head, "workload": workload, **series.sums.to_dict(confidence)}
                for (its_arm, workload), series in self.series.items()
                if its_arm == arm
            ]
        return rows
