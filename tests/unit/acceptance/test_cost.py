"""Which draft length pays, against numbers worked out by hand."""

import math
import random

import pytest

from dpace_serve.acceptance.cost import (
    MeasuredLength,
    best_length,
    break_even_tokens,
    goodput_gain,
    length_ranges,
)


def measured(num_draft_tokens, accepted, seconds):
    """A length whose two prompts accepted alike; `seconds` by batch size, the same each round."""
    return MeasuredLength(
        num_draft_tokens=num_draft_tokens,
        pairs=((accepted, 1000), (accepted, 1000)),
        step_seconds={
            size: (value, value) if isinstance(value, float) else tuple(value)
            for size, value in seconds.items()
        },
    )


# Acceptance .844 .599 .385 .271 by position; at 8 requests two draft tokens gave 303 tokens/s and
# four gave 210.
TWO = measured(2, 844 + 599, {1: 0.020, 8: 8 * 2.443 / 303})
FOUR = measured(4, 844 + 599 + 385 + 271, {1: 0.022, 8: 8 * 3.099 / 210})


def test_tau_counts_the_bonus_token():
    assert (TWO.tau, FOUR.tau) == pytest.approx((2.443, 3.099))


def test_goodput_is_tokens_per_second_of_a_full_batch():
    assert TWO.goodput(8) == pytest.approx(303)
    assert FOUR.goodput(8) == pytest.approx(210)


def test_more_tokens_per_step_lose_where_the_step_costs_more_than_they_bring():
    assert best_length([TWO, FOUR], 8, max_tie_loss=0.02) is TWO
    assert best_length([TWO, FOUR], 1, max_tie_loss=0.02) is FOUR


def test_the_break_even_line_of_the_example():
    # tau 2.443, steps of 64.50 and 118.06 ms
    assert break_even_tokens(TWO, FOUR, 8) == pytest.approx(2.028, abs=0.001)
    # a step that is a tenth longer
    assert break_even_tokens(TWO, FOUR, 1) == pytest.approx(0.2443)


def test_what_is_above_the_break_even_line_is_what_raises_goodput():
    draw = random.Random(0)
    for _ in range(200):
        short = measured(1, draw.randrange(0, 1000), {4: draw.uniform(0.01, 0.02)})
        long = measured(2, draw.randrange(0, 2000), {4: draw.uniform(0.01, 0.04)})
        pays = long.tau - short.tau > break_even_tokens(short, long, 4)
        assert pays == (long.goodput(4) > short.goodput(4))


def test_no_drafts_at_all_win_where_every_draft_costs_more_than_it_brings():
    off = measured(0, 0, {16: 0.010})
    one = measured(1, 500, {16: 0.016})
    assert off.tau == 1
    assert best_length([one, off], 16, max_tie_loss=0.02) is off


def test_the_shorter_of_two_equally_fast_lengths_is_chosen():
    short = measured(3, 1000, {1: 0.010})
    long = measured(7, 2000, {1: 0.015})
    assert best_length([long, short], 1, max_tie_loss=0.02) is short


def test_a_gain_inside_its_own_noise_is_a_tie_and_one_outside_is_not():
    quiet = measured(3, 1000, {1: [0.0100] * 5})
    # About 1.5 % faster per token, in rounds that differ by more than that.
    noisy = measured(4, 1000, {1: [0.0098, 0.0094, 0.00985, 0.0103, 0.0101]})
    steady = measured(4, 1000, {1: [0.00985] * 5})
    assert best_length([quiet, noisy], 1, max_tie_loss=0.02) is quiet
    assert best_length([quiet, steady], 1, max_tie_loss=0.02) is steady


def test_noise_excuses_no_loss_above_the_bound():
    quiet = measured(3, 1000, {1: [0.0100] * 5})
    noisy = measured(4, 1000, {1: [0.0095, 0.0080, 0.0095, 0.0110, 0.0105]})
    assert goodput_gain(quiet, noisy, 1).standard_error > 0.05
    assert best_length([quiet, noisy], 1, max_tie_loss=0.10) is quiet
    assert best_length([quiet, noisy], 1, max_tie_loss=0.02) is noisy


def test_a_machine_that_drifts_changes_no_comparison():
    drift = (1.0, 1.3, 0.9, 1.7, 1.1)
    short = measured(3, 1000, {1: [0.010 * factor for factor in drift]})
    long = measured(4, 1300, {1: [0.011 * factor for factor in drift]})
    gain = goodput_gain(short, long, 1)
    assert gain.log_ratio == pytest.approx(math.log(2.3 / 2.0 * 0.010 / 0.011))
    assert gain.standard_error == pytest.approx(0)


def test_the_error_of_step_times_is_that_of_a_median():
    base = measured(3, 1000, {1: [0.010] * 5})
    other = measured(
        4, 1000, {1: [0.010 * math.exp(-step) for step in (0, 1e-2, 2e-2, 3e-2, 4e-2)]}
    )
    gain = goodput_gain(base, other, 1)
    assert gain.log_ratio == pytest.approx(0.02)
    # 1.4826 * 0.01 (median absolute deviation) * 1.2533 / sqrt(5)
    assert gain.standard_error == pytest.approx(0.008310, abs=1e-6)


def test_the_error_of_tau_has_the_prompt_as_its_unit():
    base = MeasuredLength(0, ((0, 10), (0, 10)), {1: (0.01, 0.01)})
    other = MeasuredLength(4, ((10, 10), (30, 10)), {1: (0.01, 0.01)})
    gain = goodput_gain(base, other, 1)
    assert gain.log_ratio == pytest.approx(math.log(3))
    # tau is 2 for one prompt and 4 for the other: 3 with an error of 1, and d ln tau = d tau / tau.
    assert gain.standard_error == pytest.approx(1 / 3)


def test_step_times_between_two_measured_batch_sizes_lie_on_a_line():
    length = measured(3, 1000, {4: [0.010, 0.020], 8: [0.018, 0.024]})
    assert length.seconds_at(6) == pytest.approx((0.014, 0.022))
    assert length.seconds_at(8) == (0.018, 0.024)
    for outside in (3, 9):
        with pytest.raises(ValueError, match="from batch size 4 to 8"):
            length.seconds_at(outside)


def test_ranges_cover_every_batch_size_once_and_switch_where_the_lines_cross():
    # Goodput per request: 3 / (1 + batch) against 1 / 1: even at batch 2, where the shorter wins.
    off = measured(0, 0, {1: 1.0, 5: 1.0})
    long = measured(7, 2000, {1: 2.0, 5: 6.0})
    assert length_ranges([long, off], max_tie_loss=0.0) == ((1, 1, 7), (2, 5, 0))


def test_one_length_at_all_batch_sizes_is_one_range():
    short = measured(3, 1000, {1: 0.010, 4: 0.010})
    assert length_ranges([short], max_tie_loss=0.02) == ((1, 4, 3),)


@pytest.mark.parametrize(
    ("pairs", "seconds"),
    [
        (((1, 1),), {1: (0.1, 0.1)}),
        (((0, 0), (0, 0)), {1: (0.1, 0.1)}),
        (((1, 1), (1, 1)), {1: (0.1,)}),
        (((1, 1), (1, 1)), {1: (0.1, 0.1), 2: (0.1, 0.1, 0.1)}),
        (((1, 1), (1, 1)), {}),
    ],
    ids=["one prompt", "no step", "one round", "uneven rounds", "no batch size"],
)
def test_a_measurement_without_a_tau_or_an_error_is_refused(pairs, seconds):
    with pytest.raises(ValueError, match=r"needs at least 2 prompts|number of rounds"):
        MeasuredLength(3, pairs, seconds)
