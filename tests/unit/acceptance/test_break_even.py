"""The break-even line: exactly there one more position makes text neither faster nor slower."""

import pytest

from dpace_serve.acceptance.break_even import break_even_line
from dpace_serve.acceptance.counts import AcceptanceCounts


def counts(*rates, steps=1000):
    accepted = tuple(round(steps * rate) for rate in rates)
    return AcceptanceCounts(accepted, (steps,) * len(rates), steps, steps + sum(accepted))


def test_the_line_is_tau_times_the_relative_growth_of_the_step():
    # tau: 1, 1.8, 2.3; times 10, 12, 15, 15.
    line = break_even_line(counts(0.8, 0.5, 0.2), (0, 1, 2, 3), (10.0, 12.0, 15.0, 15.0))
    assert [point.position for point in line] == [1, 2, 3]
    assert [point.rate for point in line] == pytest.approx([0.2, 1.8 * 3 / 12, 0.0])


def test_at_the_line_goodput_does_not_change():
    times = (10.0, 12.0, 15.0)
    for position, rate in break_even_line(counts(0.8, 0.5), (0, 1, 2), times):
        tau = 1 + sum((0.8, 0.5)[: position - 1])
        assert (tau + rate) / times[position] == pytest.approx(tau / times[position - 1])


def test_sums_over_the_same_steps_give_the_line_of_their_means():
    one = break_even_line(counts(0.8, 0.5), (0, 1, 2), (10.0, 12.0, 15.0))
    many = break_even_line(counts(0.8, 0.5), (0, 1, 2), (640.0, 768.0, 960.0))
    assert [point.rate for point in many] == pytest.approx([point.rate for point in one])


def test_it_ends_where_tau_is_unknown():
    # Position 2 was never drafted, so tau(2) is unknown; tau(1) is not.
    never = AcceptanceCounts((800, 0, 0), (1000, 0, 0), 1000, 1800)
    line = break_even_line(never, (0, 1, 2, 3), (10.0, 12.0, 15.0, 16.0))
    assert [point.position for point in line] == [1, 2]


def test_it_skips_positions_whose_step_times_are_unknown():
    line = break_even_line(counts(0.8, 0.6, 0.5, 0.4), (0, 2, 3), (10.0, 14.0, 16.0))
    assert [point.position for point in line] == [3]
    assert line[0].rate == pytest.approx((1 + 0.8 + 0.6) * 2 / 14)


def test_before_the_first_request_there_is_the_first_position_only():
    line = break_even_line(AcceptanceCounts.zero(3), (0, 1, 2, 3), (10.0, 12.0, 15.0, 16.0))
    assert [tuple(point) for point in line] == [(1, pytest.approx(0.2))]


def test_a_longer_step_that_was_faster_pays_always():
    assert break_even_line(counts(0.8), (0, 1), (10.0, 9.0))[0].rate < 0
