"""Counted against configured shares: numbers by hand, ville, and how often it cries wolf."""

import math

import numpy as np
import pytest
from ville import BernoulliTest

from dpace_serve.acceptance.sample_ratio import MISMATCH_E_VALUE, SampleRatio


def test_e_values_by_hand():
    assert SampleRatio((0, 0), (0.5, 0.5)).log_e_value == pytest.approx(0)
    # 1! * 2! * 0! / 3! / 0.5^2 = 4/3
    assert math.exp(SampleRatio((2, 0), (0.5, 0.5)).log_e_value) == pytest.approx(4 / 3)
    # 1! * 1! / 3! / (0.9 * 0.1) = 1 / 0.54
    assert math.exp(SampleRatio((1, 1), (0.9, 0.1)).log_e_value) == pytest.approx(1 / 0.54)
    # 2! * 1! * 1! * 1! / 5! / (0.5 * 0.25 * 0.25)
    three = SampleRatio((1, 1, 1), (0.5, 0.25, 0.25))
    assert math.exp(three.log_e_value) == pytest.approx(2 / 120 / 0.03125)


def test_the_chance_of_all_next_requests_sums_to_one():
    """What makes it fair: on average over the draw, E stays what it is."""
    shares, counts = (0.7, 0.2, 0.1), (13, 4, 1)
    now = math.exp(SampleRatio(counts, shares).log_e_value)
    after = 0.0
    for arm, share in enumerate(shares):
        grown = tuple(count + (number == arm) for number, count in enumerate(counts))
        after += share * math.exp(SampleRatio(grown, shares).log_e_value)
    assert after == pytest.approx(now)


def test_with_two_arms_it_is_villes_beta_binomial_test():
    draw = np.random.default_rng(1)
    hits = (draw.random(500) < 0.2).astype(float)
    theirs = BernoulliTest(0.1).fit(hits).log_e_values_
    for count in (1, 10, 500):
        served = int(hits[:count].sum())
        ours = SampleRatio((count - served, served), (0.9, 0.1)).log_e_value
        assert ours == pytest.approx(theirs[count - 1], abs=1e-9)


def test_the_order_of_arms_does_not_matter():
    forth = SampleRatio((500, 80, 20), (0.8, 0.15, 0.05))
    back = SampleRatio((20, 80, 500), (0.05, 0.15, 0.8))
    assert forth.log_e_value == pytest.approx(back.log_e_value)


def test_counts_as_configured_are_no_mismatch_however_many_they_are():
    assert not SampleRatio((9 * 10**7, 10**7), (0.9, 0.1)).is_mismatch
    assert SampleRatio((9 * 10**7 + 10**5, 10**7 - 10**5), (0.9, 0.1)).is_mismatch


def test_an_arm_without_any_request_is_a_mismatch_before_long():
    # 1 / 101 / 0.9^100 = 373, and 1 / 111 / 0.9^110 = 974
    assert not SampleRatio((110, 0), (0.9, 0.1)).is_mismatch
    assert SampleRatio((111, 0), (0.9, 0.1)).is_mismatch


def first_alarm(draw, shares, configured, horizon):
    """Number of the request at which the alarm goes off, looked at after each; None if never."""
    drawn = np.cumsum(draw.multinomial(1, shares, horizon), axis=0).tolist()
    for number, counts in enumerate(drawn, start=1):
        if SampleRatio(tuple(counts), configured).is_mismatch:
            return number
    return None


def test_a_healthy_split_raises_no_alarm_where_a_repeated_chi_squared_test_does():
    repeats, horizon, share = 300, 1500, 0.1
    draw = np.random.default_rng(2)
    ours = sum(
        first_alarm(draw, (1 - share, share), (1 - share, share), horizon) is not None
        for _ in range(repeats)
    )
    assert ours == 0
    served = np.cumsum(draw.random((4000, horizon)) < share, axis=1)
    expected = share * np.arange(1, horizon + 1)
    chi_squared = (served - expected) ** 2 / (expected * (1 - share))
    # 10.83 is the 0.999 quantile of chi-squared with one degree of freedom.
    alarms = (chi_squared[:, 99:] > 10.83).any(axis=1).mean()
    assert alarms > 5 / MISMATCH_E_VALUE


@pytest.mark.parametrize(
    ("served", "configured"),
    [((0.87, 0.13), (0.9, 0.1)), ((0.77, 0.1, 0.13), (0.8, 0.1, 0.1))],
)
def test_a_tenth_that_is_served_as_thirteen_percent_is_found(served, configured):
    draw = np.random.default_rng(3)
    alarms = [first_alarm(draw, served, configured, 6000) for _ in range(30)]
    assert None not in alarms
    assert 500 < np.median(alarms) < 3500


@pytest.mark.parametrize(
    ("counts", "shares"),
    [((1,), (1.0,)), ((1, 2), (0.5, 0.25, 0.25)), ((-1, 2), (0.5, 0.5))],
)
def test_what_is_no_split_is_refused(counts, shares):
    with pytest.raises(ValueError, match="at least 2 arms"):
        SampleRatio(counts, shares)


@pytest.mark.parametrize("shares", [(0.9, 0.2), (1.0, 0.0), (0.5, 0.4)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        SampleRatio((1, 1), shares)
