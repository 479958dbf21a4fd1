"""Promote, hold or roll back a challenger, on tokens per second and at any time.

What is decided on is the ratio of tokens per second,

    effect = ln(tau_b / T_b) - ln(tau_a / T_a)

with T the time of a step, since a bigger drafter may gain tokens per step and lose time. Around it
stands a confidence sequence, so that a verdict may be asked for after every request. With its
bounds low and high:

    promote    low > ln(1 + minimum_lift)
    rollback   high < -ln(1 + maximum_loss)
    hold       everything else

The ratio of step times is taken as known: its own error is not in the interval.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dpace_serve.acceptance import verdict_reason
from dpace_serve.acceptance.confidence_sequence import ConfidenceSequence
from dpace_serve.acceptance.estimate import Estimate
from dpace_serve.acceptance.paired_moments import PairedMoments
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.split_moments import SplitMoments
from dpace_serve.acceptance.strata import (
    Stratum,
    stratify,
    total_requests,
    weighted_rates,
    weighted_taus,
)
from dpace_serve.acceptance.verdict import (
    Design,
    PositionComparison,
    StepTime,
    TauComparison,
    Verdict,
)
from dpace_serve.acceptance.verdict_reason import Sides
from dpace_serve.acceptance.verdict_rule import VerdictRule

MAX_LOST_SHARE = 0.01
"""Share of the shadowed requests that may have lost their shadow before the pairs are doubted."""


def judge_paired(
    workloads: Mapping[str, PairedMoments],
    *,
    champion: str,
    challenger: str,
    rule: VerdictRule,
    step_time: StepTime | None,
    weights: Mapping[str, float] | None,
    num_lost: int,
) -> Verdict:
    """Verdict on a challenger that shadowed requests of the champion.

    It holds at the champion's anchors, see `shadow`: in service the challenger would start its
    blocks elsewhere. When more than 1 % of the shadows were lost the decision is hold, with the
    numbers: the challenger serves nobody, so nobody is at risk while the loss is looked into.

    Args:
        workloads: Sums of each workload.
        champion: Name of the champion, for the reason.
        challenger: Name of the challenger, for the reason.
        rule: What is asked for.
        step_time: Time of the challenger's step against the champion's; none if not known.
        weights: Weight of each workload that counts, see `strata`; none pools all.
        num_lost: Counted requests of the champion whose shadow was drawn and lost.

    Raises:
        ValueError: If weights are negative or none is above 0, or `num_lost` is negative.
    """
    if num_lost < 0:
        raise ValueError(f"num_lost must be 0 or more, got {num_lost}.")
    strata = stratify(workloads, weights)
    short = _too_little_data("paired", strata, step_time, rule)
    if short is not None:
        return short
    sides = Sides(champion, challenger, "paired", total_requests(strata))
    verdict = _judge(sides, strata, step_time, rule)
    num_pairs = sum(moments.num_requests[1] for moments in workloads.values())
    if num_lost > MAX_LOST_SHARE * (num_pairs + num_lost):
        return dataclasses.replace(
            verdict,
            decision="hold",
            cause="lost_pairs",
            reason=verdict_reason.lost_pairs(num_lost, num_pairs, MAX_LOST_SHARE),
            more_requests=None,
        )
    return verdict


def judge_split(
    workloads: Mapping[str, SplitMoments],
    *,
    champion: str,
    challenger: str,
    rule: VerdictRule,
    step_time: StepTime | None,
    weights: Mapping[str, float] | None,
    sample_ratio: SampleRatio,
) -> Verdict:
    """Verdict on a challenger that serves a share of the requests.

    When the counted requests contradict the configured shares the decision is rollback, without
    numbers and however few requests there are. Something treats the arms differently; it may be
    users who leave the challenger's answers, and evidence that cannot be used is no reason to keep
    them there.

    Args:
        workloads: Sums of each workload; requests whose drafter was not drawn are left out.
        champion: Name of the champion, for the reason.
        challenger: Name of the challenger, for the reason.
        rule: What is asked for.
        step_time: Time of the challenger's step against the champion's; none if not known.
        weights: Weight of each workload that counts, see `strata`; none pools all.
        sample_ratio: Requests counted in each arm that serves, against the shares.

    Raises:
        ValueError: If weights are negative or none is above 0.
    """
    strata = stratify(workloads, weights)
    if sample_ratio.is_mismatch:
        return Verdict(
            design="split",
            decision="rollback",
            cause="sample_ratio_mismatch",
            reason=verdict_reason.sample_ratio_mismatch(sample_ratio),
            requests=total_requests(strata),
            step_time=step_time,
            rule=rule,
        )
    short = _too_little_data("split", strata, step_time, rule)
    if short is not None:
        return short
    sides = Sides(champion, challenger, "split", total_requests(strata))
    return _judge(sides, strata, step_time, rule)


def _too_little_data(
    design: Design, strata: Sequence[Stratum], step_time: StepTime | None, rule: VerdictRule
) -> Verdict | None:
    fewest = min(strata, key=lambda stratum: min(stratum.num_requests))
    if min(fewest.num_requests) >= rule.minimum_requests:
        return None
    return Verdict(
        design=design,
        decision="hold",
        cause="too_little_data",
        reason=verdict_reason.too_little_data(design, fewest.num_requests, fewest.workload, rule),
        requests=total_requests(strata),
        step_time=step_time,
        rule=rule,
    )


def _judge(
    sides: Sides, strata: Sequence[Stratum], step_time: StepTime | None, rule: VerdictRule
) -> Verdict:
    sequence = ConfidenceSequence(1 - rule.confidence, rule.planned_requests)
    taus = weighted_taus(strata)
    log_lift = taus.log_ratio()
    tau = TauComparison(
        champion=sequence.around(taus.a),
        challenger=sequence.around(taus.b),
        log_lift=sequence.around(log_lift),
    )
    measured = Verdict(
        design=sides.design,
        decision="hold",
        cause="step_time_unknown",
        reason=verdict_reason.step_time_unknown(sides, tau.log_lift),
        requests=sides.requests,
        tau=tau,
        positions=_positions(strata, rule),
        step_time=step_time,
        rule=rule,
    )
    if step_time is None:
        return measured
    shifted = dataclasses.replace(log_lift, value=log_lift.value - math.log(step_time.ratio))
    return _decide(measured, sides, shifted, sequence)


def _decide(
    measured: Verdict, sides: Sides, estimate: Estimate, sequence: ConfidenceSequence
) -> Verdict:
    rule, effect = measured.rule, sequence.around(estimate)
    if effect.low > rule.promote_above:
        reason = verdict_reason.promoted(sides, effect, rule)
        return dataclasses.replace(
            measured, decision="promote", cause="lift", reason=reason, effect=effect
        )
    if effect.high < rule.roll_back_below:
        reason = verdict_reason.rolled_back(sides, effect, rule)
        return dataclasses.replace(
            measured, decision="rollback", cause="loss", reason=reason, effect=effect
        )
    more_requests = _more_requests(estimate, sequence, rule, min(sides.requests))
    return dataclasses.replace(
        measured,
        cause="unclear",
        reason=verdict_reason.held(sides, effect, rule, more_requests),
        effect=effect,
        more_requests=more_requests,
    )


def _positions(strata: Sequence[Stratum], rule: VerdictRule) -> tuple[PositionComparison, ...]:
    rates = weighted_rates(strata, rule.minimum_requests)
    # Bonferroni, since Holm's procedure gives no intervals; over all positions, since those that
    # are shown grow more with time, and a sequence must not change its confidence.
    sequence = ConfidenceSequence((1 - rule.confidence) / max(1, len(rates)), rule.planned_requests)
    return tuple(
        PositionComparison(
            position=position,
            champion=pair.a.value,
            challenger=pair.b.value,
            difference=sequence.around(pair.difference()),
        )
        for position, pair in enumerate(rates, start=1)
        if pair is not None and (_spreads(pair.a) or _spreads(pair.b))
    )


def _spreads(rate: Estimate) -> bool:
    # At 0 or 1 no request differs from another yet: the error is not 0 but unknown.
    return 0 < rate.value < 1


def _more_requests(
    estimate: Estimate, sequence: ConfidenceSequence, rule: VerdictRule, num_requests: int
) -> int | None:
    gap = max(estimate.value - rule.promote_above, rule.roll_back_below - estimate.value)
    if gap <= 0:
        return None
    growth = sequence.growth_until(estimate, gap)
    return None if math.isinf(growth) else max(1, math.ceil((growth - 1) * num_requests))
