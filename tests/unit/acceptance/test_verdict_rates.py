"""How often a verdict is wrong when it is asked for after every request, and how often it is right.

Requests are drawn with an acceptance of their own (Beta, intra-request correlation 0.10) and a
geometric number of steps, 75 on average, so that a token tells a sixteenth of what it would tell if
tokens were independent.
"""

import math

import numpy as np
import pytest

from dpace_serve.acceptance.confidence_sequence import ConfidenceSequence
from dpace_serve.acceptance.judgement import judge_paired, judge_split
from dpace_serve.acceptance.moments import AcceptanceMoments
from dpace_serve.acceptance.paired_moments import PairedMoments, PairSums
from dpace_serve.acceptance.sample_ratio import SampleRatio
from dpace_serve.acceptance.split_moments import ArmMoments, SplitMoments
from dpace_serve.acceptance.verdict import StepTime
from dpace_serve.acceptance.verdict_rule import VerdictRule

REPEATS = 300
HORIZON = 500
MINIMUM = 100
EVERY_REQUEST = range(MINIMUM, HORIZON + 1)
Z95 = 1.959964
RULE = VerdictRule(
    minimum_lift=0.0,  # every interval without 0 decides
    maximum_loss=0.0,
    confidence=0.95,
    planned_requests=300,
    minimum_requests=MINIMUM,
)
SEQUENCE = ConfidenceSequence(1 - RULE.confidence, RULE.planned_requests)
CASE = {
    "champion": "a",
    "challenger": "b",
    "rule": RULE,
    "step_time": StepTime(1.0, "same_shape"),
    "weights": None,
}


def draw_arm(draw, chances, steps):
    return draw.binomial(steps, chances), steps


def draw_chances(draw, count):
    return draw.beta(5.4, 3.6, count)  # mean 0.6, correlation 1 / (5.4 + 3.6 + 1)


def draw_steps(draw, count):
    return draw.geometric(1 / 75, count)


def draw_pair(draw, count):
    """Two equal drafters on the same requests; three of four find a request equally hard."""
    shared, steps = draw_chances(draw, count), draw_steps(draw, count)
    other = np.where(draw.random(count) < 0.75, shared, draw_chances(draw, count))
    return draw_arm(draw, shared, steps), draw_arm(draw, other, steps)


def draw_split(draw, count):
    """Two equal drafters, each on requests of its own."""
    return tuple(
        draw_arm(draw, draw_chances(draw, count), draw_steps(draw, count)) for _ in range(2)
    )


def running(sizes, *products):
    """Sums over the first so many requests, for each size, as Python integers."""
    places = np.asarray(sizes) - 1
    return zip(*(np.cumsum(product)[places].tolist() for product in products), strict=True)


def running_moments(arm, sizes):
    y, m = arm
    return [
        AcceptanceMoments(size, *sums)
        for size, sums in zip(sizes, running(sizes, y, m, y * y, m * m, y * m), strict=True)
    ]


def paired_at(a, b, sizes):
    (y_a, m_a), (y_b, m_b) = a, b
    cross = running(sizes, y_a * y_b, y_a * m_b, m_a * y_b, m_a * m_b)
    return [
        PairedMoments(PairSums(of_a, of_b, *products), ())
        for of_a, of_b, products in zip(
            running_moments(a, sizes), running_moments(b, sizes), cross, strict=True
        )
    ]


def split_at(a, b, sizes):
    return [
        SplitMoments(ArmMoments(of_a, ()), ArmMoments(of_b, ()))
        for of_a, of_b in zip(running_moments(a, sizes), running_moments(b, sizes), strict=True)
    ]


def decide_paired(moments):
    return judge_paired({"json": moments}, **CASE, num_lost=0).decision


def decide_split(moments):
    ratio = SampleRatio(moments.num_requests, (0.5, 0.5))
    return judge_split({"json": moments}, **CASE, sample_ratio=ratio).decision


def tokens_say_different(a, b):
    """The z-test of two proportions that takes tokens for independent."""
    hits, tokens = [int(y.sum()) for y, _ in (a, b)], [int(m.sum()) for _, m in (a, b)]
    rate = sum(hits) / sum(tokens)
    error = math.sqrt(rate * (1 - rate) * (1 / tokens[0] + 1 / tokens[1]))
    return abs(hits[0] / tokens[0] - hits[1] / tokens[1]) > Z95 * error


def is_outside(moments, factor_of):
    """Whether 0 is further from the estimate than so many standard errors."""
    log_lift = moments.taus().log_ratio()
    return abs(log_lift.value) > log_lift.standard_error * factor_of(log_lift.requests)


DESIGNS = [
    pytest.param(draw_pair, paired_at, decide_paired, id="paired"),
    pytest.param(draw_split, split_at, decide_split, id="split"),
]


def test_a_token_tells_a_sixteenth_of_what_it_seems_to():
    (y, m), _ = draw_split(np.random.default_rng(1), 20_000)
    rate = y.sum() / m.sum()
    of_requests = running_moments((y, m), [20_000])[0].tau_variance
    assert of_requests / (rate * (1 - rate) / m.sum()) == pytest.approx(15.9, rel=0.05)


@pytest.mark.parametrize(("draw_arms", "sums_at", "decide"), DESIGNS)
def test_equal_drafters_are_told_apart_in_at_most_five_percent_however_often_one_looks(
    draw_arms, sums_at, decide
):
    draw = np.random.default_rng(2)
    wrong = peeked = tokens = 0
    for _ in range(REPEATS):
        a, b = draw_arms(draw, HORIZON)
        looks = sums_at(a, b, EVERY_REQUEST)
        outside = [
            moments for moments in looks if is_outside(moments, lambda n: SEQUENCE.half_width(1, n))
        ]
        # The verdict decides exactly where the sequence leaves 0.
        assert all(decide(moments) != "hold" for moments in outside[:1])
        assert (decide(looks[-1]) != "hold") == (looks[-1] in outside[-1:])
        wrong += bool(outside)
        peeked += any(is_outside(moments, lambda n: Z95) for moments in looks)
        tokens += tokens_say_different(a, b)
    assert wrong / REPEATS <= 0.05
    assert peeked / REPEATS > 0.15  # a fixed-size interval, watched
    assert tokens / REPEATS > 0.25  # tokens as units, looked at once


def requests_with_tau(draw, count, mean, spread):
    """100 steps each; tau normal with this mean and coefficient of variation."""
    tau = draw.normal(mean, spread * mean, count)
    return np.maximum(np.rint(100 * (tau - 1)), 0).astype(int), np.full(count, 100)


def share_that_is_found(sizes, factor_of, *, lift=0.05, spread=0.3, repeats=400, seed=3):
    """How often one of these looks excludes 0, with a true lift."""
    draw = np.random.default_rng(seed)
    found = 0
    for _ in range(repeats):
        looks = split_at(
            requests_with_tau(draw, sizes[-1], 4.0, spread),
            requests_with_tau(draw, sizes[-1], 4.0 * (1 + lift), spread),
            sizes,
        )
        found += any(is_outside(moments, factor_of) for moments in looks)
    return found / repeats


# Requests of each arm that find a lift in four of five, at one look and 5 % two-sided:
# 2 (1.96 + 0.8416)^2 spread^2 / lift^2, by spread of the requests' taus and lift.
SIZES = {
    (0.2, 0.01): 6280, (0.2, 0.02): 1570, (0.2, 0.03): 698, (0.2, 0.05): 252,
    (0.3, 0.01): 14129, (0.3, 0.02): 3533, (0.3, 0.03): 1570, (0.3, 0.05): 566,
    (0.4, 0.01): 25117, (0.4, 0.02): 6280, (0.4, 0.03): 2791, (0.4, 0.05): 1005,
}  # fmt: skip


@pytest.mark.parametrize(("spread", "lift"), SIZES)
def test_one_look_at_the_planned_size_finds_a_lift_in_four_of_five(spread, lift):
    found = share_that_is_found([SIZES[spread, lift]], lambda n: Z95, lift=lift, spread=spread)
    assert found == pytest.approx(0.80, abs=0.06)


def test_a_sequence_finds_it_later_and_may_be_watched():
    """At 2.4 times the size of one look its interval is as wide, and it has been found more often.

    Looking once at the end it would be P(Z > 3.04 - 2.8 sqrt(2.4)) = 0.90; being watched until
    then adds to it. The size for four in five is about 1.8 times that of one look.
    """
    sequence = ConfidenceSequence(0.05, 1358)
    found = share_that_is_found(
        range(118, 1359, 40), lambda n: sequence.half_width(1, n), repeats=200
    )
    assert 0.86 <= found <= 0.97


def test_pairing_needs_fewer_requests():
    draw = np.random.default_rng(4)
    pair = paired_at(*draw_pair(draw, 4000), [4000])[0].taus()
    correlation = pair.covariance / math.sqrt(pair.a.variance * pair.b.variance)
    alone = split_at(*draw_split(draw, 4000), [4000])[0].taus().log_ratio().variance
    assert correlation > 0.5
    assert pair.log_ratio().variance / alone == pytest.approx(1 - correlation, abs=0.08)
