"""Counts by draft position: hand-made numbers, and the denominators that are easy to get wrong."""

import math

import pytest

from dpace_serve.acceptance.counts import AcceptanceCounts

# Drafted 3, 3, 1 and accepted 2, 0, 1: position 1 was drafted three times, position 2 twice.
MIXED = AcceptanceCounts.from_steps([2, 0, 1], [3, 3, 1], num_draft_tokens=3, emitted=6)


def test_a_step_counts_at_every_position_up_to_its_length():
    assert MIXED.accepted == (2, 1, 0)
    assert MIXED.drafted == (3, 2, 2)
    assert MIXED.steps == 3
    assert MIXED.accepted_total == 3
    assert MIXED.drafted_total == 7
    assert MIXED.num_draft_tokens == 3


def test_tau_counts_the_bonus_token():
    assert AcceptanceCounts.from_steps([0, 2], [3, 3], 3, 4).tau == 2.0  # (1 + 3) / 2


def test_a_rate_divides_by_the_steps_that_drafted_the_position():
    assert MIXED.rate_at(1) == 2 / 3
    assert MIXED.rate_at(2) == 1 / 2  # not 1 / 3: one step did not draft it
    assert MIXED.rates() == [2 / 3, 1 / 2, 0.0]


def test_the_conditional_rate_is_the_share_of_those_that_got_so_far():
    counts = AcceptanceCounts.from_steps([3, 2, 2, 1, 0], [3] * 5, 3, 13)
    assert counts.conditional_rate_at(1) == 4 / 5
    assert counts.conditional_rate_at(2) == pytest.approx(3 / 4)
    assert counts.conditional_rate_at(3) == pytest.approx(1 / 3)


def test_what_was_never_drafted_has_no_rate():
    counts = AcceptanceCounts.from_steps([1], [1], 3, 2)
    assert counts.rate_at(1) == 1.0
    assert math.isnan(counts.rate_at(2))
    assert math.isnan(counts.conditional_rate_at(3))


def test_the_conditional_rate_is_undefined_after_a_position_that_never_accepts():
    assert math.isnan(AcceptanceCounts.from_steps([0], [2], 2, 1).conditional_rate_at(2))


def test_nothing_has_no_tau():
    nothing = AcceptanceCounts.zero(4)
    assert math.isnan(nothing.tau)
    assert all(math.isnan(rate) for rate in nothing.rates())


def test_counts_of_two_halves_add_up_to_the_whole():
    first = AcceptanceCounts.from_steps([2], [3], 3, 3)
    second = AcceptanceCounts.from_steps([0, 1], [3, 1], 3, 3)
    assert first + second == MIXED
    assert MIXED + AcceptanceCounts.zero(3) == MIXED


@pytest.mark.parametrize("position", [0, 4, -1])
def test_positions_run_from_1_to_the_number_of_draft_tokens(position):
    with pytest.raises(ValueError, match="from 1 to 3"):
        MIXED.rate_at(position)


@pytest.mark.parametrize(
    ("accepted", "drafted", "message"),
    [
        ([2], [1], "2 of 1 in step 1"),
        ([0, 0], [3, 0], "0 of 0 in step 2"),
        ([-1], [2], "-1 of 2"),
        ([1, 1], [2], "same steps"),
        ([1], [4], "at most num_draft_tokens = 3, got 4"),
    ],
)
def test_impossible_steps_are_refused(accepted, drafted, message):
    with pytest.raises(ValueError, match=message):
        AcceptanceCounts.from_steps(accepted, drafted, 3, 0)


@pytest.mark.parametrize(
    ("accepted", "drafted", "steps", "emitted", "message"),
    [
        ((2, 1), (1, 1), 2, 0, "accepted <= drafted"),
        ((0, 0), (3, 1), 2, 0, "drafted <= steps"),
        ((0, 1), (2, 2), 2, 0, "exceed the one before it"),
        ((0, 0), (1, 2), 2, 0, "exceed the one before it"),
        ((1,), (1, 1), 1, 0, "same positions, at least one, got 1 and 2"),
        ((), (), 0, 0, "same positions, at least one, got 0 and 0"),
        ((1,), (1,), 1, -1, "emitted must not be negative, got -1"),
    ],
)
def test_impossible_sums_are_refused(accepted, drafted, steps, emitted, message):
    with pytest.raises(ValueError, match=message):
        AcceptanceCounts(accepted, drafted, steps, emitted)


def test_counts_over_different_numbers_of_positions_do_not_add():
    with pytest.raises(ValueError, match="got 3 and 2"):
        MIXED + AcceptanceCounts.zero(2)
