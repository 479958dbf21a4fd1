"""RunResult: everything that a report says, computed once from rows, records and facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpace_loadtest.comparison_of_arms import Comparison, compare_arms
from dpace_loadtest.join import JoinedRow, join
from dpace_loadtest.knee import MIN_ANSWERED_SHARE, Knee, LoadPoint, find_knee
from dpace_loadtest.rows import RequestRow
from dpace_loadtest.run_facts import ArmFacts, RunFacts
from dpace_loadtest.run_verdict import RunVerdict, judge_run
from dpace_loadtest.service import ServiceRecords, server_name
from dpace_loadtest.summary import ArmAcceptance, LoadSummary, arm_acceptances, summarise
from dpace_loadtest.timeline import Timeline, timelines
from dpace_serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        facts: What it was.
        baseline: Arm that the others are compared with.
        services: What was read of the servers.
        joined: Every request with its records, warm-up included.
        summaries: Every arm at every load.
        acceptances: Every arm over all its loads, and by workload.
        comparisons: Every other arm against the baseline.
        knees: Of each arm; none in a closed loop, which offers no rate.
        timelines: Of each arm.
        verdict: Whether it is good.
    """

    facts: RunFacts
    baseline: str
    services: tuple[ServiceRecords, ...]
    joined: tuple[JoinedRow, ...]
    summaries: tuple[LoadSummary, ...]
    acceptances: tuple[ArmAcceptance, ...]
    comparisons: tuple[Comparison, ...]
    knees: Mapping[str, Knee]
    timelines: tuple[Timeline, ...]
    verdict: RunVerdict

    def keeps_up(self, arm: str, load: float) -> bool | None:
        """Whether an arm answered what was offered at a load; none where that is unknown."""
        for one in self.summaries:
            if (one.arm, one.load) == (arm, load):
                share = None if one.offered is None else one.offered.answered_share
                return None if share is None else share >= MIN_ANSWERED_SHARE
        return None

    def headline_load(self, arm: str) -> float | None:
        """Load at which an arm is best compared with the baseline; none if they share none.

        The highest at which neither fell behind, or else the lowest: beyond that the waiting grows
        with the length of the run, and so does every ratio of it.
        """
        loads = sorted({one.load for one in self.comparisons if one.arm == arm})
        fair = [
            load
            for load in loads
            if self.keeps_up(arm, load) is not False
            and self.keeps_up(self.baseline, load) is not False
        ]
        return max(fair) if fair else min(loads, default=None)

    def headline_comparisons(self) -> list[Comparison]:
        """Comparisons at the headline load of their arm that have a ratio."""
        return [
            one
            for one in self.comparisons
            if one.ratio is not None and one.load == self.headline_load(one.arm)
        ]

    def service_of(self, arm: ArmFacts) -> ServiceRecords | None:
        """What was read of an arm's server; none where nobody asked it."""
        return _service_of(arm, self.services)


def run_result(
    facts: RunFacts, rows: Sequence[RequestRow], services: Sequence[ServiceRecords]
) -> RunResult:
    """Join, summarise, compare and judge.

    Args:
        facts: What the run was.
        rows: All its requests.
        services: What was read of its servers; none of a server leaves its acceptance unknown.

    Raises:
        ConfigError: If a row or the baseline names an arm that the facts do not have.
    """
    _require_arms(facts, rows)
    names = [arm.name for arm in facts.arms]
    of_arms = {arm.name: _service_of(arm, services) for arm in facts.arms}
    urls = {arm.name: server_name(arm.url) for arm in facts.arms}
    joined = join(rows, urls, services)
    num_draft_tokens = {
        name: service.facts.num_draft_tokens
        for name, service in of_arms.items()
        if service is not None and service.facts is not None
    }
    plain = frozenset(
        name
        for name, service in of_arms.items()
        if service is not None and service.standing == "no_drafter"
    )
    baseline = facts.baseline or next((name for name in names if name in plain), names[0])
    summaries = summarise(joined, facts, num_draft_tokens)
    return RunResult(
        facts=facts,
        baseline=baseline,
        services=tuple(services),
        joined=tuple(joined),
        summaries=summaries,
        acceptances=arm_acceptances(joined, names, num_draft_tokens),
        comparisons=compare_arms(joined, names, baseline),
        knees={name: _knee(name, summaries, facts) for name in names},
        timelines=timelines(rows, names),
        verdict=judge_run(summaries, facts, plain),
    )


def _service_of(arm: ArmFacts, services: Sequence[ServiceRecords]) -> ServiceRecords | None:
    url = server_name(arm.url)
    return next((service for service in services if service.url == url), None)


def _knee(arm: str, summaries: Sequence[LoadSummary], facts: RunFacts) -> Knee:
    if facts.mode == "closed":
        return Knee(None, False, "A closed loop offers no rate: its users wait for the server.")
    points = [
        LoadPoint(
            load=one.load,
            answered_share=None if one.offered is None else one.offered.answered_share,
            goodput_share=None if one.total.goodput is None else one.total.goodput.share,
            is_saturated=one.is_saturated,
        )
        for one in summaries
        if one.arm == arm
    ]
    return find_knee(points, facts.slo.min_goodput_share)


def _require_arms(facts: RunFacts, rows: Sequence[RequestRow]) -> None:
    known = {arm.name for arm in facts.arms}
    named = {row.arm for row in rows} | ({facts.baseline} if facts.baseline else set())
    unknown = sorted(named - known)
    if unknown:
        raise ConfigError(
            f"arms must be among {', '.join(sorted(known))}, got {', '.join(unknown)}. "
            "Read the rows with the scenario that wrote them."
        )
