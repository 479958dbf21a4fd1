"""Sums over pairs: hand-made numbers, the interval over lists, records, and equal drafters."""

import math
import random

import pytest

from dpace_serve.acceptance.estimate import Estimate
from dpace_serve.acceptance.moments import (
    AcceptanceMoments,
    paired_tau_difference,
    paired_tau_ratio,
)
from dpace_serve.acceptance.paired_moments import PairedMoments, PairSums
from dpace_serve.acceptance.request import RequestAcceptance

Z95 = 1.959963984540054


def record(accepted, drafted, *, request_id="r1", arm="champion", excluded=None):
    return RequestAcceptance(
        request_id=request_id,
        drafter="d",
        revision="v",
        arm=arm,
        workload="json",
        per_step_accepted=tuple(accepted),
        per_step_drafted=tuple(drafted),
        emitted_tokens=0 if arm == "shadow" or excluded else sum(accepted) + len(accepted),
        unsettled_drafted=0,
        unsettled_accepted=0,
        finish_reason="stop",
        excluded=excluded,
    )


def random_pairs(count, seed):
    """(accepted, steps) under two drafters that share what a request is like."""
    draw = random.Random(seed)
    a, b = [], []
    for _ in range(count):
        chance, steps = draw.betavariate(4, 3), draw.randint(5, 60)
        a.append((sum(draw.random() < chance for _ in range(steps)), steps))
        fewer = draw.randint(4, steps)
        b.append((sum(draw.random() < chance + 0.05 for _ in range(fewer)), fewer))
    return a, b


def test_sums_of_two_pairs_by_hand():
    sums = PairSums.from_pairs([(0, 1), (6, 2)], [(1, 2), (4, 3)])
    assert sums == PairSums(
        a=AcceptanceMoments(2, 6, 3, 36, 5, 12),
        b=AcceptanceMoments(2, 5, 5, 17, 13, 14),
        accepted_accepted=24,
        accepted_steps=18,
        steps_accepted=9,
        steps_steps=8,
    )


def test_what_a_request_does_to_both_drafters_cancels():
    # r = 1 and 2, residuals -1 and +1 under both: variances 2/1 * 2/4 = 1, covariance +1.
    pair = PairSums.from_pairs([(0, 1), (2, 1)], [(1, 1), (3, 1)]).taus()
    assert (pair.a, pair.b, pair.covariance) == (Estimate(2, 1, 2), Estimate(3, 1, 2), 1)
    assert pair.difference() == Estimate(1, 0, 2)
    # The square of 1/2 - 1/3.
    assert pair.log_ratio().variance == pytest.approx(1 / 36)
    assert pair.log_ratio().value == pytest.approx(math.log(1.5))


def test_what_a_request_does_to_them_in_opposite_ways_adds_up():
    pair = PairSums.from_pairs([(0, 1), (2, 1)], [(3, 1), (1, 1)]).taus()
    assert pair.covariance == -1
    assert pair.difference().variance == 4
    # The square of 1/2 + 1/3.
    assert pair.log_ratio().variance == pytest.approx(25 / 36)


@pytest.mark.parametrize("seed", range(5))
def test_sums_give_the_interval_that_the_lists_give(seed):
    a, b = random_pairs(80, seed)
    pair = PairSums.from_pairs(a, b).taus()
    ratio, log_lift = paired_tau_ratio(a, b, 0.95), pair.log_ratio()
    assert math.exp(log_lift.value) == pytest.approx(ratio.ratio, rel=1e-13)
    reach = Z95 * log_lift.standard_error
    assert math.exp(log_lift.value + reach) == pytest.approx(ratio.high, rel=1e-12)
    assert math.exp(log_lift.value - reach) == pytest.approx(ratio.low, rel=1e-12)
    difference = paired_tau_difference(a, b, 0.95)
    reach = Z95 * pair.difference().standard_error
    assert pair.difference().value + reach == pytest.approx(difference.high, rel=1e-11)


def test_sums_add_one_request_at_a_time():
    a, b = random_pairs(30, seed=9)
    total = PairSums.zero()
    for of_a, of_b in zip(a, b, strict=True):
        total += PairSums.from_pairs([of_a], [of_b])
    assert total == PairSums.from_pairs(a, b)


def test_the_order_of_drafters_only_turns_the_sign():
    a, b = random_pairs(50, seed=3)
    forth = PairSums.from_pairs(a, b).taus().log_ratio()
    back = PairSums.from_pairs(b, a).taus().log_ratio()
    assert back.value == pytest.approx(-forth.value)
    assert back.variance == pytest.approx(forth.variance)


def test_a_drafter_against_itself_has_no_error_at_all():
    a, _ = random_pairs(70, seed=4)
    huge = [(10**7 * accepted + 1, 10**7 * steps) for accepted, steps in a]
    for rows in (a, huge):
        pair = PairSums.from_pairs(rows, rows).taus()
        assert (pair.log_ratio().value, pair.log_ratio().variance) == (0.0, 0.0)
        assert (pair.difference().value, pair.difference().variance) == (0.0, 0.0)


@pytest.mark.parametrize("factor", range(2, 12))
def test_drafters_in_proportion_have_an_error_of_rounding_only(factor):
    a, _ = random_pairs(70, seed=factor)
    more = [(factor * accepted, factor * steps) for accepted, steps in a]
    assert PairSums.from_pairs(a, more).taus().log_ratio().standard_error < 1e-8


def test_a_drafter_that_never_varies_leaves_the_error_of_the_other():
    a, _ = random_pairs(70, seed=6)
    pair = PairSums.from_pairs(a, [(0, 10)] * 70).taus()
    assert (pair.b.value, pair.b.variance, pair.covariance) == (1.0, 0.0, 0.0)
    expected = AcceptanceMoments.from_pairs(a)
    assert pair.log_ratio().standard_error == pytest.approx(
        expected.tau_standard_error / expected.tau
    )


@pytest.mark.parametrize("rows", [[], [(3, 2)], [(0, 0), (0, 0)]])
def test_too_few_pairs_have_no_error_and_do_not_fail(rows):
    difference = PairSums.from_pairs(rows, rows).rates().difference()
    assert math.isnan(difference.variance) or difference.variance == 0
    assert math.isnan(PairSums.from_pairs(rows, rows).taus().a.variance)


def test_a_pair_of_records_by_hand():
    moments = PairedMoments.from_requests(
        record([2, 0], [2, 2]), record([1, 1], [2, 1], arm="shadow"), num_draft_tokens=3
    )
    assert moments.total == PairSums.from_pairs([(2, 2)], [(2, 2)])
    assert moments.positions == (
        PairSums.from_pairs([(1, 2)], [(2, 2)]),
        PairSums.from_pairs([(1, 2)], [(0, 1)]),
        PairSums.zero(),  # nobody drafted a third token: no pair of this position
    )
    assert moments.num_requests == (1, 1)


def test_records_give_the_differences_of_rates_by_position():
    draw = random.Random(7)
    total, lists = PairedMoments.zero(2), []
    for number in range(40):
        steps = draw.randint(3, 9)
        a = [draw.randint(0, 2) for _ in range(steps)]
        b = [draw.randint(0, 2) for _ in range(steps)]
        name = f"r{number}"
        total += PairedMoments.from_requests(
            record(a, [2] * steps, request_id=name),
            record(b, [2] * steps, request_id=name, arm="shadow"),
            num_draft_tokens=2,
        )
        lists.append((a, b))
    for position, pair in enumerate(total.rates(), start=1):
        of_a = [(sum(step >= position for step in a), len(a)) for a, _ in lists]
        of_b = [(sum(step >= position for step in b), len(b)) for _, b in lists]
        expected = paired_tau_difference(of_a, of_b, 0.95)
        reach = Z95 * pair.difference().standard_error
        assert pair.difference().value == pytest.approx(expected.difference)
        assert pair.difference().value + reach == pytest.approx(expected.high)
        assert pair.a.value == sum(y for y, _ in of_a) / sum(m for _, m in of_a)


def test_lists_of_different_requests_are_refused():
    with pytest.raises(ValueError, match="same requests, got 1 and 2"):
        PairSums.from_pairs([(1, 1)], [(1, 1), (1, 1)])


def test_records_of_different_requests_are_no_pair():
    with pytest.raises(ValueError, match="one request, got r1 and r2"):
        PairedMoments.from_requests(record([1], [1]), record([1], [1], request_id="r2"), 1)


@pytest.mark.parametrize("lost", [record([], [], excluded="aborted"), record([], [])])
def test_records_that_are_not_counted_are_refused(lost):
    with pytest.raises(ValueError, match="counted requests with a step"):
        PairedMoments.from_requests(record([1], [1]), lost, 1)
