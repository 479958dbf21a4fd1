"""Whether a run is good, as a sentence and an exit code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpace_loadtest.run_facts import RunFacts
from dpace_loadtest.summary import LoadSummary

VerdictKind = Literal["good", "generator_saturated", "too_many_failures", "slo_missed", "empty"]


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """What a run came to.

    Attributes:
        kind: Good, or the first thing that was wrong.
        reason: The same in one sentence.
    """

    kind: VerdictKind
    reason: str

    @property
    def exit_code(self) -> int:
        """0 if good, 1 if not."""
        return 0 if self.kind == "good" else 1


def judge_run(
    summaries: Sequence[LoadSummary], facts: RunFacts, plain_arms: frozenset[str]
) -> RunVerdict:
    """The first thing that is wrong, the most damaging first.

    A generator that fell behind spoils its numbers at whatever load it did. Failures and the SLO
    are judged at the lowest load of each arm: a sweep is meant to end in failure. An arm without a
    drafter beside arms with one is there to be compared with, so it may miss the SLO.

    Args:
        summaries: Of all arms and loads.
        facts: What was run, with the limits.
        plain_arms: Arms whose server drafts nothing.
    """
    unmeasured = [
        arm.name for arm in facts.arms if not any(one.arm == arm.name for one in summaries)
    ]
    if unmeasured:
        return RunVerdict("empty", f"No request of {', '.join(unmeasured)} was measured.")
    for one in summaries:
        if one.is_saturated and one.send_lag.p99 is not None:
            return RunVerdict("generator_saturated", _saturation(one, one.send_lag.p99, facts))
    lowest = [min((o for o in summaries if o.arm == arm.name), key=_load) for arm in facts.arms]
    for one in lowest:
        if one.total.num_failed / one.total.num_requests > facts.max_failed_share:
            return RunVerdict("too_many_failures", _failures(one, facts))
    has_drafters = len(plain_arms) < len(facts.arms)
    least = facts.slo.min_goodput_share
    for one in lowest:
        good = one.total.goodput
        is_reference = has_drafters and one.arm in plain_arms
        if least is None or good is None or is_reference:
            continue
        if good.share < least:
            return RunVerdict(
                "slo_missed",
                f"Only {good.share:.1%} of the requests of {_place(one, facts)} kept the SLO, "
                f"less than {least:.1%}.",
            )
    return RunVerdict("good", _praise(facts))


def _load(one: LoadSummary) -> float:
    return one.load


def _place(one: LoadSummary, facts: RunFacts) -> str:
    return f"{one.arm} at {one.load:g} {facts.load_unit}"


def _saturation(one: LoadSummary, lag_p99: float, facts: RunFacts) -> str:
    return (
        f"The load generator was saturated: 1 % of the requests of {_place(one, facts)} were sent "
        f"more than {lag_p99 * 1000:.0f} ms late, and {facts.saturation_seconds * 1000:.0f} ms are "
        "allowed. Use more workers or less load."
    )


def _failures(one: LoadSummary, facts: RunFacts) -> str:
    counts = ", ".join(
        f"{count} {outcome}"
        for outcome, count in one.total.outcomes.items()
        if count and outcome != "ok"
    )
    return (
        f"{one.total.num_failed} of {one.total.num_requests} requests of {_place(one, facts)} "
        f"failed ({counts}), and {facts.max_failed_share:.1%} are allowed."
    )


def _praise(facts: RunFacts) -> str:
    is_judged = facts.slo.has_limits and facts.slo.min_goodput_share is not None
    kept = "The SLO was kept and failures" if is_judged else "No SLO was judged; failures"
    where = " at the lowest load of each arm" if len(facts.loads) > 1 else ""
    return f"{kept} stayed within their limit{where}, and the generator kept up."
