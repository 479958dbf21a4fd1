"""Summary of a run: every arm at every load, over all its requests and by workload."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.acceptance_summary import (
    DrafterAcceptance,
    JoinCounts,
    drafter_acceptances,
    join_counts,
    most_draft_tokens,
)
from dpace_loadtest.goodput import Goodput, goodput
from dpace_loadtest.join import JoinedRow
from dpace_loadtest.latency import Latency
from dpace_loadtest.percentiles import Distribution
from dpace_loadtest.row_json import OUTCOMES
from dpace_loadtest.rows import Outcome
from dpace_loadtest.run_facts import RunFacts
from dpace_loadtest.steadiness import Steadiness, steadiness
from dpace_loadtest.windows import Offered, measured_windows, offered


@dataclass(frozen=True, slots=True)
class Group:
    """Measured requests of one arm at one load, all of them or those of one workload.

    Attributes:
        arm: Name of the arm.
        load: What was offered, of all workloads together.
        workload: Of these requests; none is all of them.
        num_requests: Measured requests, whatever their outcome.
        outcomes: How many of them ended how.
        latency: Of those that were answered to the end.
        window_seconds: From the first scheduled time to the last end of all workloads together,
            summed over rounds; throughputs are divided by it, so that workloads add up.
        requests_per_second: Requests that ended ok.
        tokens_per_second: Their completion tokens; none if the server did not count some.
        goodput: Under the SLO; none without limits.
        acceptance: Of each drafter and role, from the service's records.
        joined: Where the requests went in the join.
    """

    arm: str
    load: float
    workload: str | None
    num_requests: int
    outcomes: Mapping[Outcome, int]
    latency: Latency
    window_seconds: float
    requests_per_second: float | None
    tokens_per_second: float | None
    goodput: Goodput | None
    acceptance: tuple[DrafterAcceptance, ...]
    joined: JoinCounts

    @property
    def num_failed(self) -> int:
        """Measured requests that did not end ok."""
        return self.num_requests - self.outcomes["ok"]


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """One arm at one load.

    Attributes:
        total: All its requests.
        workloads: The same by workload, in the order of their names.
        offered: Offered and answered rate; none where no time passed.
        steadiness: First half against second half.
        send_lag: How late requests were sent.
        is_saturated: Whether the generator fell behind: p99 of the send lag above the limit.
    """

    total: Group
    workloads: tuple[Group, ...]
    offered: Offered | None
    steadiness: Steadiness
    send_lag: Distribution
    is_saturated: bool

    @property
    def arm(self) -> str:
        """Name of the arm."""
        return self.total.arm

    @property
    def load(self) -> float:
        """What was offered."""
        return self.total.load


@dataclass(frozen=True, slots=True)
class ArmAcceptance:
    """Acceptance of one arm over all its loads, of all its requests or those of one workload.

    Attributes:
        arm: Name of the arm.
        workload: Of these requests; none is all of them.
        acceptance: Of each drafter and role.
        joined: Where the requests went in the join.
    """

    arm: str
    workload: str | None
    acceptance: tuple[DrafterAcceptance, ...]
    joined: JoinCounts


def arm_acceptances(
    joined: Sequence[JoinedRow], arms: Sequence[str], num_draft_tokens: Mapping[str, int]
) -> tuple[ArmAcceptance, ...]:
    """Acceptance of each arm that was measured: over all its requests, then by workload.

    Args:
        joined: All requests of the run.
        arms: Names in order.
        num_draft_tokens: Draft positions of the server of each arm, where they are known.
    """
    found: list[ArmAcceptance] = []
    for arm in arms:
        measured = [one for one in joined if one.row.arm == arm and one.row.phase == "measured"]
        positions = max(num_draft_tokens.get(arm, 0), most_draft_tokens(measured))
        for workload in (None, *sorted({one.row.workload for one in measured})):
            members = [one for one in measured if workload in (None, one.row.workload)]
            if members:
                acceptance = drafter_acceptances(members, positions)
                found.append(ArmAcceptance(arm, workload, acceptance, join_counts(members)))
    return tuple(found)


def summarise(
    joined: Sequence[JoinedRow], facts: RunFacts, num_draft_tokens: Mapping[str, int]
) -> tuple[LoadSummary, ...]:
    """Summaries in the order of the arms, then of the loads; cells without a request are absent.

    Args:
        joined: All requests of the run.
        facts: What the run was.
        num_draft_tokens: Draft positions of the server of each arm, where they are known.
    """
    cells: dict[tuple[str, float], list[JoinedRow]] = {}
    for one in joined:
        cells.setdefault((one.row.arm, one.row.load), []).append(one)
    arms = [arm.name for arm in facts.arms]
    return tuple(
        _load_summary(cells[key], facts, num_draft_tokens.get(key[0], 0))
        for key in sorted(cells, key=lambda key: (arms.index(key[0]), key[1]))
        if any(one.row.phase == "measured" for one in cells[key])
    )


def _load_summary(cell: Sequence[JoinedRow], facts: RunFacts, num_draft_tokens: int) -> LoadSummary:
    rows = [one.row for one in cell]
    windows = measured_windows(rows)
    seconds = math.fsum(window.seconds for window in windows.values())
    measured = [one for one in cell if one.row.phase == "measured"]
    positions = max(num_draft_tokens, most_draft_tokens(measured))
    send_lag = Distribution.of(one.row.send_lag_seconds for one in measured)
    lag_p99 = send_lag.p99

    def group(members: Sequence[JoinedRow], workload: str | None) -> Group:
        return _group(members, workload, facts, seconds, positions)

    by_workload: dict[str, list[JoinedRow]] = {}
    for one in measured:
        by_workload.setdefault(one.row.workload, []).append(one)
    return LoadSummary(
        total=group(measured, None),
        workloads=tuple(group(members, name) for name, members in sorted(by_workload.items())),
        offered=offered(rows, windows) if facts.mode == "open" else None,
        steadiness=steadiness(rows, windows),
        send_lag=send_lag,
        is_saturated=lag_p99 is not None and lag_p99 > facts.saturation_seconds,
    )


def _group(
    members: Sequence[JoinedRow],
    workload: str | None,
    facts: RunFacts,
    seconds: float,
    num_draft_tokens: int,
) -> Group:
    rows = [one.row for one in members]
    outcomes = {name: sum(row.outcome == name for row in rows) for name in OUTCOMES}
    tokens = [row.completion_tokens for row in rows if row.outcome == "ok"]
    known = [count for count in tokens if count is not None]
    has_all_tokens = len(known) == len(tokens)
    return Group(
        arm=rows[0].arm,
        load=rows[0].load,
        workload=workload,
        num_requests=len(rows),
        outcomes=outcomes,
        latency=Latency.of(rows),
        window_seconds=seconds,
        requests_per_second=len(tokens) / seconds if seconds else None,
        tokens_per_second=sum(known) / seconds if seconds and has_all_tokens else None,
        goodput=goodput(rows, facts.slo, seconds),
        acceptance=drafter_acceptances(members, num_draft_tokens),
        joined=join_counts(members),
    )
