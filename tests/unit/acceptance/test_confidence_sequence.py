"""Intervals for all times: numbers by hand, shape, and ville as a second opinion."""

import itertools
import math
import random

import numpy as np
import pytest
from ville import AsymptoticABTest, AsymptoticCS

from dpace_serve.acceptance.confidence_sequence import ConfidenceSequence
from dpace_serve.acceptance.estimate import Estimate
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.split_moments import ArmMoments, SplitMoments

# -2 ln 0.05 = 5.991465 and ln(6.991465) = 1.944690
RHO_SQUARED_TIMES_PLAN = 7.936155
SEQUENCE = ConfidenceSequence(alpha=0.05, planned_requests=1000)


def test_the_planned_size_costs_three_standard_errors_by_hand():
    # sqrt(2 * 8.936155 / 7.936155 * (ln(8.936155) / 2 + ln 20)) = sqrt(2.252011 * 4.090785)
    assert SEQUENCE.half_width(1.0, 1000) == pytest.approx(3.035209, abs=2e-6)
    assert SEQUENCE.half_width(0.01, 1000) == pytest.approx(0.03035209, abs=2e-8)


def test_the_width_is_two_and_a_half_times_the_requests_of_one_look():
    assert (SEQUENCE.half_width(1.0, 1000) / 1.959964) ** 2 == pytest.approx(2.4, abs=0.01)


def test_it_is_narrowest_against_its_error_near_the_planned_size():
    widths = {n: SEQUENCE.half_width(1.0, n) for n in (100, 200, 500, 1000, 2000, 5000, 20_000)}
    assert min(widths, key=lambda n: widths[n]) == 1000
    assert max(width for n, width in widths.items() if n >= 200) < 3.4
    assert widths[100] == pytest.approx(3.855, abs=1e-3)


def test_in_absolute_terms_more_requests_always_narrow_it():
    widths = [SEQUENCE.half_width(1 / math.sqrt(n), n) for n in range(50, 5000)]
    assert all(later < earlier for earlier, later in itertools.pairwise(widths))


def test_more_confidence_is_wider():
    wide = ConfidenceSequence(alpha=0.01, planned_requests=1000)
    assert wide.half_width(1.0, 500) > SEQUENCE.half_width(1.0, 500)


def test_the_interval_stands_around_its_estimate():
    interval = SEQUENCE.around(Estimate(0.5, 0.04, 1000))
    assert interval.estimate == 0.5
    assert interval.high - 0.5 == pytest.approx(0.5 - interval.low)
    assert interval.high == pytest.approx(0.5 + 0.2 * 3.035209, abs=1e-6)


def test_nothing_to_doubt_is_a_point():
    interval = SEQUENCE.around(Estimate(0.0, 0.0, 100))
    assert (interval.low, interval.high) == (0.0, 0.0)


@pytest.mark.parametrize("half_width", [0.05, 0.02, 0.003])
def test_after_the_growth_the_interval_is_as_narrow_as_asked_for(half_width):
    today = Estimate(0.1, 0.03**2, 200)
    growth = SEQUENCE.growth_until(today, half_width)
    later = Estimate(0.1, today.variance / growth, today.requests * growth)
    assert SEQUENCE.half_width(later.standard_error, later.requests) == pytest.approx(
        half_width, rel=2e-3
    )
    assert growth > 1


def test_growth_is_at_least_none_and_at_most_endless():
    today = Estimate(0.1, 0.03**2, 200)
    assert SEQUENCE.growth_until(today, 1.0) == 1.0
    assert math.isinf(SEQUENCE.growth_until(today, 1e-12))
    assert SEQUENCE.growth_until(Estimate(0.1, 0.0, 200), 1e-300) == 1.0


def numbers(count, seed, mean):
    draw = np.random.default_rng(seed)
    return draw.poisson(mean, count)


def test_of_a_plain_mean_it_is_villes_at_every_request():
    values = numbers(1500, 1, 3.0)
    theirs = AsymptoticCS(alpha=0.05, t_opt=1000, min_samples=100)
    theirs.rho_ = 1000 / RHO_SQUARED_TIMES_PLAN  # ville's rho is 1 / rho^2 of the paper
    theirs.fit(values)
    for count in (100, 101, 500, 1500):
        moments = AcceptanceMoments.from_pairs([(int(value), 1) for value in values[:count]])
        ours = SEQUENCE.around(Estimate(moments.tau - 1, moments.tau_variance, count))
        assert ours.low == pytest.approx(theirs.lower_[count - 1], rel=1e-6)
        assert ours.high == pytest.approx(theirs.upper_[count - 1], rel=1e-6)


def test_the_papers_closed_form_of_rho_costs_next_to_nothing_against_villes_optimum():
    theirs = AsymptoticCS(alpha=0.05, t_opt=1000, min_samples=100).fit(numbers(4000, 2, 3.0))
    for count in (200, 1000, 4000):
        spread = np.std(numbers(4000, 2, 3.0)[:count], ddof=1) / math.sqrt(count)
        width = (theirs.upper_[count - 1] - theirs.lower_[count - 1]) / 2
        assert SEQUENCE.half_width(spread, count) == pytest.approx(width, rel=0.02)
        if count == 1000:
            assert width <= SEQUENCE.half_width(spread, count) <= 1.0005 * width


def test_of_a_split_it_agrees_with_villes_ab_test():
    """Ours counts requests per arm and estimates both means; ville counts all, weighted by 1/2.

    So its planned size is twice ours, and the two agree as far as its pseudo-outcomes have the
    variance of the arms: up to what its running centre and the uneven draw leave, a few percent.
    """
    count, draw = 8000, random.Random(3)
    values = numbers(count, 4, 3.0)
    treated = np.array([draw.random() < 0.5 for _ in range(count)], dtype=float)
    values[treated == 1] += numbers(count, 5, 0.2)[treated == 1]
    theirs = AsymptoticABTest(alpha=0.05, propensity=0.5, t_opt=2000).fit(values, treated)
    arms = [
        ArmMoments(AcceptanceMoments.from_pairs((int(v), 1) for v in values[treated == arm]), ())
        for arm in (0, 1)
    ]
    ours = SEQUENCE.around(SplitMoments(*arms).taus().difference())
    low, high = theirs.interval()
    assert ours.high - ours.low == pytest.approx(high - low, rel=0.03)
    assert ours.estimate == pytest.approx(theirs.estimate_[-1], abs=0.25 * (high - low))
    assert ours.low > 0
    assert low > 0
