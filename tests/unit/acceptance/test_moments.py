"""Tau with the request as unit: hand-made numbers, jackknife, bootstrap, and what tokens claim."""

import math
import random
import statistics

import pytest

from dpace_serve.acceptance.moments import (
    AcceptanceMoments,
    paired_tau_difference,
    paired_tau_ratio,
)
from dpace_serve.acceptance.request import RequestAcceptance

Z95 = 1.959964  # from a printed table of the normal distribution


def clustered_requests(count, seed, *, shift=0.0):
    """(accepted, steps) of requests that each have their own acceptance, block length 3."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        chance = min(max(generator.gauss(0.5, 0.2) + shift, 0.02), 0.98)
        steps = generator.randint(5, 80)
        accepted = 0
        for _ in range(steps):
            for _ in range(3):
                if generator.random() >= chance:
                    break
                accepted += 1
        rows.append((accepted, steps))
    return rows


def tau_of(rows):
    return 1 + sum(accepted for accepted, _ in rows) / sum(steps for _, steps in rows)


def jackknife_standard_error(values_without_one):
    count = len(values_without_one)
    centre = statistics.fmean(values_without_one)
    return math.sqrt((count - 1) / count * sum((v - centre) ** 2 for v in values_without_one))


def test_moments_of_two_requests_by_hand():
    moments = AcceptanceMoments.from_pairs([(0, 1), (6, 2)])
    assert moments == AcceptanceMoments(
        requests=2, accepted=6, steps=3, accepted_squared=36, steps_squared=5, accepted_steps=12
    )
    assert moments.tau == 3.0


def test_moments_of_a_request_are_those_of_its_pair():
    request = RequestAcceptance(
        request_id="r1",
        drafter="d",
        revision="v",
        arm="champion",
        workload="json",
        per_step_accepted=(3, 1),
        per_step_drafted=(3, 3),
        emitted_tokens=6,
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
    )
    assert AcceptanceMoments.from_request(request) == AcceptanceMoments(1, 4, 2, 16, 4, 8)
    assert AcceptanceMoments.from_requests([request] * 2) == AcceptanceMoments(2, 8, 4, 32, 8, 16)


def test_moments_add():
    rows = clustered_requests(20, seed=1)
    parts = [AcceptanceMoments.from_pairs([row]) for row in rows]
    assert sum(parts, AcceptanceMoments.zero()) == AcceptanceMoments.from_pairs(rows)


def test_standard_error_of_two_requests_by_hand():
    # r = 1, residuals -1 and +1: 2/1 * (1 + 1) / 2^2 = 1.
    moments = AcceptanceMoments.from_pairs([(0, 1), (2, 1)])
    assert moments.tau_standard_error == 1.0
    low, high = moments.tau_interval(0.95)
    assert low == pytest.approx(2 - Z95, abs=1e-6)
    assert high == pytest.approx(2 + Z95, abs=1e-6)


def test_long_requests_weigh_more():
    # r = 6/3 = 2, residuals 0 - 2 and 6 - 4: 2/1 * (4 + 4) / 9 = 16/9.
    assert AcceptanceMoments.from_pairs([(0, 1), (6, 2)]).tau_standard_error == pytest.approx(4 / 3)


def test_equal_requests_have_no_spread_even_when_the_sums_are_huge():
    moments = AcceptanceMoments.from_pairs([(10**7 + 1, 3 * 10**6)] * 1000)
    assert moments.tau_standard_error == 0.0


def test_standard_error_agrees_with_the_jackknife():
    rows = clustered_requests(400, seed=2)
    left_out = [tau_of(rows[:i] + rows[i + 1 :]) for i in range(len(rows))]
    ours = AcceptanceMoments.from_pairs(rows).tau_standard_error
    assert ours == pytest.approx(jackknife_standard_error(left_out), rel=0.01)


def test_interval_agrees_with_a_bootstrap_over_requests():
    rows = clustered_requests(300, seed=3)
    generator = random.Random(4)
    taus = [tau_of(generator.choices(rows, k=len(rows))) for _ in range(2000)]
    cuts = statistics.quantiles(taus, n=40)  # 2.5 % steps
    low, high = AcceptanceMoments.from_pairs(rows).tau_interval(0.95)
    width = high - low
    assert low == pytest.approx(cuts[0], abs=0.1 * width)
    assert high == pytest.approx(cuts[-1], abs=0.1 * width)


def test_tokens_as_units_would_claim_a_far_too_narrow_interval():
    rows = clustered_requests(300, seed=5)
    accepted = sum(row[0] for row in rows)
    steps = sum(row[1] for row in rows)
    rate = accepted / (3 * steps)
    token_level = 3 * math.sqrt(rate * (1 - rate) / (3 * steps))
    assert AcceptanceMoments.from_pairs(rows).tau_standard_error > 3 * token_level


def test_the_interval_covers_the_truth_as_often_as_it_says_and_tokens_do_not():
    truth = tau_of(clustered_requests(20_000, seed=6))
    ours = tokens = 0
    for seed in range(200):
        rows = clustered_requests(60, seed=1000 + seed)
        low, high = AcceptanceMoments.from_pairs(rows).tau_interval(0.95)
        ours += low <= truth <= high
        drafted = 3 * sum(row[1] for row in rows)
        rate = (tau_of(rows) - 1) / 3
        reach = Z95 * 3 * math.sqrt(rate * (1 - rate) / drafted)
        tokens += abs(tau_of(rows) - truth) <= reach
    assert 0.90 <= ours / 200 <= 0.99
    assert tokens / 200 < 0.6


@pytest.mark.parametrize("rows", [[], [(3, 2)], [(0, 0), (0, 0)]])
def test_too_few_requests_have_no_interval(rows):
    low, high = AcceptanceMoments.from_pairs(rows).tau_interval(0.95)
    assert math.isnan(low)
    assert math.isnan(high)


def test_one_request_has_a_tau_and_none_has_not():
    assert AcceptanceMoments.from_pairs([(3, 2)]).tau == 2.5
    assert math.isnan(AcceptanceMoments.zero().tau)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, math.nan])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        AcceptanceMoments.zero().tau_interval(confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_tau_ratio([], [], confidence)


def test_paired_ratio_of_two_requests_by_hand():
    # tau 3 and 5; parts -+1/3 and -+1/5, so d = +-2/15, sd = 2 sqrt(2) / 15 and SE = 2/15.
    result = paired_tau_ratio([(1, 1), (3, 1)], [(3, 1), (5, 1)], 0.95)
    assert result.ratio == pytest.approx(5 / 3)
    assert result.low == pytest.approx(5 / 3 * math.exp(-Z95 * 2 / 15), rel=1e-6)
    assert result.high == pytest.approx(5 / 3 * math.exp(Z95 * 2 / 15), rel=1e-6)


def test_a_drafter_against_itself_is_exactly_1():
    rows = clustered_requests(50, seed=7)
    result = paired_tau_ratio(rows, rows, 0.95)
    assert (result.ratio, result.low, result.high) == (1.0, 1.0, 1.0)


def test_swapping_the_drafters_inverts_the_ratio_and_its_bounds():
    a, b = clustered_requests(80, seed=8), clustered_requests(80, seed=9, shift=0.1)
    forth, back = paired_tau_ratio(a, b, 0.9), paired_tau_ratio(b, a, 0.9)
    assert back.ratio == pytest.approx(1 / forth.ratio)
    assert back.low == pytest.approx(1 / forth.high)
    assert back.high == pytest.approx(1 / forth.low)


def better_on_the_same_requests(rows, seed):
    """A drafter that accepts a little more of each request, so that the pairs belong together."""
    generator = random.Random(seed)
    return [
        (accepted + sum(generator.random() < 0.15 for _ in range(steps)), steps)
        for accepted, steps in rows
    ]


def test_the_paired_interval_agrees_with_the_jackknife_of_the_log_ratio():
    a = clustered_requests(300, seed=10)
    b = better_on_the_same_requests(a, seed=11)
    left_out = [
        math.log(tau_of(b[:i] + b[i + 1 :]) / tau_of(a[:i] + a[i + 1 :])) for i in range(len(a))
    ]
    result = paired_tau_ratio(a, b, 0.95)
    ours = math.log(result.high / result.low) / (2 * Z95)
    assert result.ratio == pytest.approx(tau_of(b) / tau_of(a))
    assert ours == pytest.approx(jackknife_standard_error(left_out), rel=0.02)


def test_pairing_narrows_the_interval_and_a_wrong_order_loses_that():
    a = clustered_requests(300, seed=12)
    b = better_on_the_same_requests(a, seed=13)
    paired = paired_tau_ratio(a, b, 0.95)
    shuffled = random.Random(14).sample(b, len(b))
    unpaired = paired_tau_ratio(a, shuffled, 0.95)
    assert unpaired.ratio == pytest.approx(paired.ratio)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)


def test_one_pair_has_a_ratio_but_no_interval():
    result = paired_tau_ratio([(1, 1)], [(3, 1)], 0.95)
    assert result.ratio == 2.0
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_a_drafter_without_a_step_has_no_ratio():
    assert math.isnan(paired_tau_ratio([(0, 0), (0, 0)], [(1, 1), (1, 1)], 0.95).ratio)


def test_lists_of_different_length_are_not_pairs():
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_tau_ratio([(1, 1)], [(1, 1), (1, 1)], 0.95)


def test_paired_difference_of_two_requests_by_hand():
    # tau 2 and 5. Of a, r = 1 and mean steps 3/2: parts (0 - 1) / 1.5 and (3 - 2) / 1.5, so -+2/3.
    # Of b, r = 4 and mean steps 1: parts -+1. d = -+1/3, sd = sqrt(2) / 3 and SE = 1/3.
    result = paired_tau_difference([(0, 1), (3, 2)], [(3, 1), (5, 1)], 0.95)
    assert result.difference == pytest.approx(3)
    assert result.low == pytest.approx(3 - Z95 / 3, rel=1e-6)
    assert result.high == pytest.approx(3 + Z95 / 3, rel=1e-6)


def test_a_drafter_differs_from_itself_by_exactly_nothing():
    rows = clustered_requests(50, seed=7)
    result = paired_tau_difference(rows, rows, 0.95)
    assert (result.difference, result.low, result.high) == (0.0, 0.0, 0.0)


def test_swapping_the_drafters_turns_the_sign_of_the_difference_and_its_bounds():
    a, b = clustered_requests(80, seed=8), clustered_requests(80, seed=9, shift=0.1)
    forth, back = paired_tau_difference(a, b, 0.9), paired_tau_difference(b, a, 0.9)
    assert back.difference == pytest.approx(-forth.difference)
    assert back.low == pytest.approx(-forth.high)
    assert back.high == pytest.approx(-forth.low)


def test_the_paired_interval_of_the_difference_agrees_with_a_bootstrap_over_requests():
    a = clustered_requests(300, seed=15)
    b = better_on_the_same_requests(a, seed=16)
    generator = random.Random(17)
    differences = []
    for _ in range(2000):
        drawn = generator.choices(range(len(a)), k=len(a))
        differences.append(tau_of([b[i] for i in drawn]) - tau_of([a[i] for i in drawn]))
    cuts = statistics.quantiles(differences, n=40)  # 2.5 % steps
    result = paired_tau_difference(a, b, 0.95)
    width = result.high - result.low
    assert result.difference == pytest.approx(tau_of(b) - tau_of(a))
    assert result.low == pytest.approx(cuts[0], abs=0.1 * width)
    assert result.high == pytest.approx(cuts[-1], abs=0.1 * width)


def test_pairing_narrows_the_interval_of_the_difference_too():
    a = clustered_requests(300, seed=12)
    b = better_on_the_same_requests(a, seed=13)
    paired = paired_tau_difference(a, b, 0.95)
    unpaired = paired_tau_difference(a, random.Random(14).sample(b, len(b)), 0.95)
    assert unpaired.difference == pytest.approx(paired.difference)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)


def test_a_difference_without_enough_to_go_on_is_not_a_number():
    one = paired_tau_difference([(1, 1)], [(3, 1)], 0.95)
    assert one.difference == 2.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert math.isnan(paired_tau_difference([(0, 0)] * 2, [(1, 1)] * 2, 0.95).difference)
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_tau_difference([(1, 1)], [(1, 1), (1, 1)], 0.95)
