"""The interval of a share, as of one draft position, with the request as unit."""

import math
import random

import pytest

from dpace_serve.acceptance.moments import AcceptanceMoments

Z95 = 1.959964  # from a printed table of the normal distribution


def test_the_interval_of_two_requests_by_hand():
    # 3 of 4 and 1 of 4 steps: r = 1/2, sum (a - r d)^2 = 1 + 1, SE = sqrt(2 / 1 * 2) / 8 = 1/4.
    moments = AcceptanceMoments.from_pairs([(3, 4), (1, 4)])
    assert moments.rate == 0.5
    expected = (0.5 - Z95 / 4, 0.5 + Z95 / 4)
    assert moments.share_interval(0.95) == pytest.approx(expected, abs=1e-6)


def test_bounds_beyond_a_share_are_cut():
    assert AcceptanceMoments.from_pairs([(4, 4), (2, 4)]).share_interval(0.95)[1] == 1
    assert AcceptanceMoments.from_pairs([(0, 4), (2, 4)]).share_interval(0.95)[0] == 0


@pytest.mark.parametrize("pairs", [[], [(1, 2)], [(0, 3), (0, 4)], [(3, 3), (4, 4)], [(0, 0)] * 2])
def test_too_few_requests_and_all_or_nothing_accepted_have_no_interval(pairs):
    assert all(map(math.isnan, AcceptanceMoments.from_pairs(pairs).share_interval(0.95)))


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, math.nan])
def test_a_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(ValueError, match=r"between 0 and 1, got .* Use 0.95"):
        AcceptanceMoments.zero().share_interval(confidence)


def test_it_covers_the_truth_as_often_as_it_says_and_counted_steps_do_not():
    # Requests of 20 steps whose own chances lie evenly between 0.2 and 0.8: the truth is 1/2.
    generator = random.Random(3)
    covered_by_requests = covered_by_steps = 0
    for _ in range(400):
        chances = [generator.uniform(0.2, 0.8) for _ in range(60)]
        pairs = [(sum(generator.random() < p for _ in range(20)), 20) for p in chances]
        moments = AcceptanceMoments.from_pairs(pairs)
        low, high = moments.share_interval(0.95)
        covered_by_requests += low < 0.5 < high
        rate = moments.rate
        of_steps = Z95 * math.sqrt(rate * (1 - rate) / moments.steps)
        covered_by_steps += abs(rate - 0.5) < of_steps
    assert 0.92 < covered_by_requests / 400 < 0.98
    assert covered_by_steps / 400 < 0.85
