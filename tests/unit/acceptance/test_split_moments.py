"""Independent arms and fixed weights: hand-made numbers, and tea-tasting as a second opinion."""

import math
import random
import statistics

import pytest

from dpace_serve.acceptance.estimate import Estimate, EstimatePair
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.acceptance.split_moments import ArmMoments, SplitMoments

Z95 = 1.959963984540054


def record(accepted, drafted, excluded=None):
    return RequestAcceptance(
        request_id="r1",
        drafter="d",
        revision="v",
        arm="champion",
        workload="json",
        per_step_accepted=tuple(accepted),
        per_step_drafted=tuple(drafted),
        emitted_tokens=sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
        excluded=excluded,
    )


def random_requests(count, seed, lift=0.0):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        chance, steps = draw.betavariate(4, 3) + lift, draw.randint(5, 60)
        rows.append((sum(draw.random() < chance for _ in range(steps)), steps))
    return rows


def split_of(a, b):
    return SplitMoments(
        ArmMoments(AcceptanceMoments.from_pairs(a), ()),
        ArmMoments(AcceptanceMoments.from_pairs(b), ()),
    )


def test_an_arm_of_one_record_by_hand():
    arm = ArmMoments.from_request(record([2, 0], [2, 1]), num_draft_tokens=3)
    assert arm.total == AcceptanceMoments.from_pairs([(2, 2)])
    assert arm.positions == (
        AcceptanceMoments.from_pairs([(1, 2)]),
        AcceptanceMoments.from_pairs([(1, 1)]),
        AcceptanceMoments.zero(),  # never drafted: no request of this position
    )


def test_arms_add():
    parts = [record([2, 0], [2, 2]), record([1], [2]), record([0, 2, 2], [2, 2, 2])]
    total = sum((ArmMoments.from_request(part, 2) for part in parts), ArmMoments.zero(2))
    assert total.total == AcceptanceMoments.from_requests(parts)
    assert total.positions[1] == AcceptanceMoments.from_pairs([(1, 2), (0, 1), (2, 3)])
    both = SplitMoments(total, ArmMoments.zero(2)) + SplitMoments(ArmMoments.zero(2), total)
    assert both == SplitMoments(total, total)
    assert both.num_requests == (3, 3)


def test_a_record_that_is_not_counted_is_refused():
    with pytest.raises(ValueError, match="counted requests with a step"):
        ArmMoments.from_request(record([], [], "aborted"), 2)


def test_errors_of_independent_arms_add():
    # r = 1 and 2, variances 1 and 1 (see the paired numbers); no covariance here.
    pair = split_of([(0, 1), (2, 1)], [(1, 1), (3, 1)]).taus()
    assert pair.difference() == Estimate(1, 2, 2)
    assert pair.log_ratio().variance == pytest.approx(1 / 4 + 1 / 9)


def test_rates_of_positions_leave_out_the_bonus_token():
    arm = ArmMoments(AcceptanceMoments.zero(), (AcceptanceMoments.from_pairs([(1, 4), (2, 4)]),))
    (rates,) = SplitMoments(arm, arm).rates()
    assert (rates.a.value, rates.difference().value) == (0.375, 0.0)


def aggregates(rows):
    from tea_tasting.aggr import Aggregates

    emitted = [accepted + steps for accepted, steps in rows]
    steps = [steps for _, steps in rows]
    return Aggregates(
        count_=len(rows),
        mean_={"emitted": statistics.fmean(emitted), "steps": statistics.fmean(steps)},
        var_={"emitted": statistics.variance(emitted), "steps": statistics.variance(steps)},
        cov_={("emitted", "steps"): statistics.covariance(emitted, steps)},
    )


@pytest.mark.parametrize(("num_a", "num_b"), [(300, 300), (900, 100)])
def test_fixed_size_intervals_are_those_of_tea_tasting(num_a, num_b):
    # Not at the top: it loads ibis, whose `_` stops a vLLM engine that starts in the same process.
    from tea_tasting.metrics import RatioOfMeans

    a, b = random_requests(num_a, seed=1), random_requests(num_b, seed=2, lift=0.05)
    theirs = RatioOfMeans(
        "emitted", "steps", confidence_level=0.95, equal_var=False, use_t=False
    ).analyze_aggregates(aggregates(a), aggregates(b))
    pair = split_of(a, b).taus()
    difference, log_lift = pair.difference(), pair.log_ratio()
    reach = Z95 * difference.standard_error
    assert difference.value == pytest.approx(theirs.effect_size)
    assert difference.value - reach == pytest.approx(theirs.effect_size_ci_lower, rel=1e-9)
    assert difference.value + reach == pytest.approx(theirs.effect_size_ci_upper, rel=1e-9)
    reach = Z95 * log_lift.standard_error
    assert math.expm1(log_lift.value) == pytest.approx(theirs.rel_effect_size)
    assert math.expm1(log_lift.value - reach) == pytest.approx(theirs.rel_effect_size_ci_lower)
    assert math.expm1(log_lift.value + reach) == pytest.approx(theirs.rel_effect_size_ci_upper)


def test_rounding_never_makes_a_variance_negative():
    errors = []
    for tenths in range(11, 60):
        tau, spread = tenths / 10, 0.01
        a = Estimate(2.3, 2.3 * 2.3 * spread, 100)
        b = Estimate(tau, tau * tau * spread, 100)  # in proportion: the errors cancel
        errors.append(EstimatePair(a, b, 2.3 * tau * spread).log_ratio().standard_error)
    assert max(errors) < 1e-8
    assert min(errors) == 0


def test_weighted_pairs_by_hand():
    first = EstimatePair(Estimate(2, 0.04, 100), Estimate(3, 0.08, 100), 0.01)
    second = EstimatePair(Estimate(4, 0.16, 50), Estimate(5, 0.32, 25), 0.05)
    pair = EstimatePair.weighted([(3, first), (1, second)])
    assert (pair.a.value, pair.b.value) == (2.5, 3.5)
    # Shares 3/4 and 1/4: nine sixteenths of 0.04 and one of 0.16.
    assert pair.a.variance == pytest.approx(0.0325)
    assert pair.covariance == pytest.approx((9 * 0.01 + 0.05) / 16)
    # One over the sum of 0.75^2 / 100 and 0.25^2 / 50.
    assert pair.a.requests == pytest.approx(145.4545, abs=1e-4)
    assert pair.difference().requests == pytest.approx(pair.b.requests)


def test_only_the_proportion_of_weights_counts():
    rows = [split_of(random_requests(60, s), random_requests(60, s + 9)).taus() for s in (1, 2)]
    small = EstimatePair.weighted([(0.3, rows[0]), (0.7, rows[1])])
    large = EstimatePair.weighted([(30, rows[0]), (70, rows[1])])
    assert small.log_ratio().value == pytest.approx(large.log_ratio().value)
    assert small.log_ratio().variance == pytest.approx(large.log_ratio().variance)


def test_one_stratum_is_what_it_was():
    pair = split_of(random_requests(60, 1), random_requests(50, 2)).taus()
    weighted = EstimatePair.weighted([(0.2, pair)])
    assert (weighted.a.value, weighted.b.variance) == (pair.a.value, pair.b.variance)
    assert weighted.b.requests == pytest.approx(50)


def test_strata_in_their_natural_shares_have_the_size_of_all_requests():
    few, many = (Estimate(2.0, 0.1, count) for count in (100, 300))
    pair = EstimatePair.weighted(
        [(100, EstimatePair(few, few, 0)), (300, EstimatePair(many, many, 0))]
    )
    assert pair.a.requests == pytest.approx(400)
